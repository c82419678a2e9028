"""``sidkit monitor``: drift of the serving ranker's features, codes and scores by day."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidkit.cli.audit import EXCEEDED
from sidkit.cli.options import JsonOption, RepoOption, SinceOption, UntilOption
from sidkit.cli.output import say, show, show_json
from sidkit.cli.tables import table

if TYPE_CHECKING:
    from ranking.monitoring.monitor import DaySummary, MonitorResult
    from sidkit.core.intervals import Interval

_SHOWN = 20


class SourceName(StrEnum):
    """Where monitored rows come from."""

    log = "log"
    rows = "rows"


def monitor(
    repo: RepoOption = Path(),
    ranker: Annotated[str | None, typer.Option(help="The ranker; default: the serving one.")] = None,
    source: Annotated[
        SourceName,
        typer.Option(help="log: what a service logged; rows: the labelled rows after the ranker's training."),
    ] = SourceName.log,
    since: SinceOption = None,
    until: UntilOption = None,
    days: Annotated[int, typer.Option(min=1, help="Without --since: the last days with rows.")] = 7,
    rows: Annotated[int, typer.Option(min=1, help="Number of rows to sample.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the samples.")] = 0,
    watch: Annotated[float, typer.Option(min=0, help="PSI from which a day is to be watched.")] = 0.1,
    drift: Annotated[float, typer.Option(min=0, help="PSI from which a day drifts.")] = 0.25,
    min_rows: Annotated[int, typer.Option(min=2, help="A day with fewer rows has no verdict.")] = 200,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Pattern of features to leave out, such as 'item_*_all'. Repeatable.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with all distributions to this file.")] = None,
    json_: JsonOption = False,
) -> None:
    """Measure drift of features, codes and scores by day.

    Compares what a service logged (`sidkit serve --log-sample`), or the labelled rows after the ranker's training, with the
    rows that it was trained on: the population stability index (PSI), shares of cold and new items, and AUC and log loss of
    served scores whose labels have arrived. Exits with code 3 if a day drifts.
    """
    import sidkit

    result = sidkit.open(repo).monitor(
        ranker=ranker,
        source=source.value,
        since=since,
        until=until,
        days=days,
        rows=rows,
        seed=seed,
        watch=watch,
        drift=drift,
        min_rows=min_rows,
        ignore=tuple(ignore or ()),
        html=html,
    )
    if json_:
        show_json(result.as_json())
    else:
        _print(result)
        if html is not None:
            say(f"page: {html}")
    if not result.ok:
        raise typer.Exit(EXCEEDED)


def _print(result: MonitorResult) -> None:
    head = ("DAY", "ROWS", "REQUESTS", "COLD", "NEW", "NO CODES", "UNKNOWN", "SCORE")
    show(table(head, [_day(day) for day in (result.reference, *result.days)]))
    notable = [each for each in result.features if each.verdict in {"watch", "drift"}]
    if notable:
        show("")
        columns = ("DISTRIBUTION", "VERDICT", "PSI", "USUAL", "WORST DAY", "MEAN", "REFERENCE")
        lines = []
        for each in notable[:_SHOWN]:
            day = max((day for day in each.days if day.verdict == each.verdict), key=lambda day: day.psi)
            means = ("" if mean is None else f"{mean:.4g}" for mean in (day.mean, each.mean))
            lines.append((each.name, each.verdict, f"{day.psi:.3f}", f"{each.usual:.3f}", day.day, *means))
        show(table(columns, lines, left=("VERDICT", "WORST DAY")))
        if len(notable) > _SHOWN:
            show(f"and {len(notable) - _SHOWN} more; --html or --json has all")
    for outcome in result.outcomes:
        show(
            f"labels have arrived for {outcome.rows:,} served rows, {outcome.positives:,} positive: AUC "
            f"{_interval(outcome.auc)}, log loss {_interval(outcome.log_loss)}"
        )
    unknown = sum(each.verdict == "unknown" for each in result.features)
    verdict = f"{len(result.drifting)} of {len(result.features)} distributions drift"
    if unknown:
        verdict += f", {unknown} have too few rows for a verdict"
    rows = sum(day.rows for day in result.days)
    where = "the served log" if result.source == "log" else "the labelled rows"
    show(f"{result.ranker}: {rows:,} of {result.total:,} rows of {where}: {verdict}")


def _day(day: DaySummary) -> tuple[str, ...]:
    shares = (day.cold, day.new, day.without_codes, day.unknown)
    return (
        day.day,
        f"{day.rows:,}",
        f"{day.requests:,}",
        *("" if share is None else f"{share:.1%}" for share in shares),
        f"{day.score:.4f}",
    )


def _interval(metric: Interval | None) -> str:
    return "unknown" if metric is None else f"{metric.value:.4f} [{metric.low:.4f}, {metric.high:.4f}]"
