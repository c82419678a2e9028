"""Malformed source tables: each row is in the log, a reject or reported; counts and histories follow from the valid rows."""

from __future__ import annotations

import random
import re
import shutil
import tomllib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from oracle.features import Oracle, Settings

from .oracle import Expected, expected
from .outcome import CLEAR, RIGHT, Ran, Verdict, error_of
from .place import Place
from .processes import in_process
from .source_faults import break_files
from .source_files import TABLES, Stored, store_parquet, store_sqlite
from .source_rows import DAY, SECOND, draw_rows, exported_again, spoil

_DELAY, _CADENCE, _LENGTH = 60 * SECOND, 60 * SECOND, 50


@dataclass
class Tried:
    """One source and the repo made of it."""

    verdict: Verdict
    repo: Path
    stored: Stored
    keep_unknown: bool
    refused: bool = False
    seen: list[str] = field(default_factory=list)


def case(draw: random.Random, place: Place) -> Verdict:
    """Try one source: init, check, ingest, rows, build; sometimes the next export too."""
    verdict = Verdict()
    rows = draw_rows(draw)
    if draw.random() < 0.8:
        spoil(draw, rows)
    source = place.root / "in" / "source"
    in_database = draw.random() < 0.12
    stored = store_sqlite(draw, rows, source / "x.sqlite") if in_database else store_parquet(draw, rows, source)
    if not in_database:
        break_files(draw, source, stored)
    tried = Tried(verdict, place.root / "made", stored, draw.random() < 0.3)
    # The positives of a log with one label only say what the feedback is.
    wanted = expected(rows, keep_unknown=tried.keep_unknown)
    if stored.without_vectors:
        wanted.embeddings = []
        wanted.invalid["item_embeddings"] = wanted.repeated["item_embeddings"] = 0
    once = _ingest(tried, wanted, len(rows.interactions), draw)
    verdict.did = "; ".join([*rows.notes, *stored.did, "unknown items kept" if tried.keep_unknown else ""])
    if not once or stored.odd or draw.random() < 0.6:
        return verdict
    exported_again(draw, rows)
    shutil.rmtree(source)
    tried.stored = (
        store_sqlite(draw, rows, source / "x.sqlite") if in_database else store_parquet(draw, rows, source, plain=True)
    )
    again = expected(rows, keep_unknown=tried.keep_unknown, before=deepcopy(wanted))
    verdict.did += "; " + rows.notes[-1]
    if not again.hopeless:
        _steps(tried, again, len(rows.interactions), draw, first=False)
    return verdict


def _run(tried: Tried, *words: object) -> Ran | None:
    """One command; None when it ended badly or refused."""
    ran = in_process(words)
    outcome, why = error_of(ran, names=tried.stored.names if tried.stored.must_refuse else ())
    if outcome == RIGHT:
        return ran
    tried.verdict.add(outcome, f"{' '.join(map(str, words[:2]))}: {why}")
    tried.refused = outcome == CLEAR
    tried.seen.append(why)
    return None


def _ingest(tried: Tried, wanted: Expected, count: int, draw: random.Random) -> bool:
    done = _run(tried, "init", tried.repo, "--data", tried.stored.url)
    if done is None:
        if tried.refused and not tried.stored.odd and not (wanted.hopeless or wanted.doubtful):
            tried.verdict.wrong("init refuses a source that keeps the contract")
        return False
    for name in re.findall(r"column '([^']+)' of item_embeddings .* is ignored", done.err):
        # A column without vectors is said to be one, and the other modalities are used.
        tried.stored.must_refuse = False
        for row in wanted.embeddings:
            row.vectors.pop(name, None)
    path = tried.repo / "sidkit.toml"
    text = path.read_text().replace("threads = 2", "threads = 1")
    text = re.sub(r"max_reject_share = \S+", "max_reject_share = 1.0", text)
    if tried.keep_unknown:
        text = text.replace('unknown_items = "reject"', 'unknown_items = "keep"')
    path.write_text(text)
    return _steps(tried, wanted, count, draw, first=True)


def _steps(tried: Tried, wanted: Expected, count: int, draw: random.Random, *, first: bool) -> bool:
    verdict, repo = tried.verdict, tried.repo
    checks = draw.random() < 0.4
    checked = _run(tried, "data", "check", tried.stored.url, "--repo", repo) if checks else None
    check_refused = tried.refused
    tried.refused = False
    ingested = _run(tried, "data", "ingest", "--repo", repo)
    if checks and (checked is None) != (ingested is None) and not verdict.bad:
        verdict.wrong(
            f"`data check` {'refuses' if check_refused else 'accepts'} what `data ingest` does not: {tried.seen}"
        )
    if ingested is None:
        if tried.refused and not tried.stored.odd and not (wanted.hopeless or wanted.doubtful):
            verdict.wrong("a source that keeps the contract but for single rows is refused")
        return False
    if tried.stored.must_refuse:
        verdict.wrong(f"accepted although {tried.stored.odd}")
        return False
    if wanted.hopeless:
        verdict.wrong(f"accepted although {wanted.hopeless[0]}")
        return False
    _check_account(tried, wanted, count, ingested, first)
    if _run(tried, "tables", "rows", "--repo", repo) is None:
        return False
    last = max(event.timestamp for event in wanted.events)
    as_of = last + draw.choice((_DELAY, 2 * DAY, 33 * DAY)) if not first or draw.random() < 0.8 else last - 9 * DAY
    if not first:
        as_of = max(as_of, last + 34 * DAY)
    text = _iso(as_of)
    if _run(tried, "tables", "build", "--repo", repo, "--as-of", text) is None:
        if as_of > last:
            verdict.wrong(f"`tables build --as-of {text}` refuses: {tried.seen[-1]}")
        return False
    _check_labelled(verdict, repo, wanted)
    _check_features(verdict, repo, wanted, as_of, draw)
    return True


def _iso(micros: int) -> str:
    from datetime import UTC, datetime, timedelta

    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat()


def _check_account(tried: Tried, wanted: Expected, count: int, ingested: Ran, first: bool) -> None:
    """Rows of the source = rows of the log + rejects + rows that are reported as the same event."""
    held = re.search(r"log has ([\d,]+) rows", ingested.out)
    if held is None:
        tried.verdict.wrong(f"ingest does not say how many rows the log holds: {ingested.out[-300:]}")
        return
    in_log = int(held[1].replace(",", ""))
    if in_log != len(wanted.events):
        tried.verdict.wrong(f"the log holds {in_log} rows, right are {len(wanted.events)}")
    for table in TABLES:
        path = tried.repo / "data" / "rejects" / f"{table}.parquet"
        rejects = pq.read_table(path) if path.exists() else None
        rejected = 0 if rejects is None else len(rejects)
        least, repeated = wanted.invalid[table], wanted.repeated[table]
        if not least <= rejected <= least + repeated:
            reasons = {} if rejects is None else dict(Counter(rejects.column("reason").to_pylist()))
            tried.verdict.wrong(
                f"{table}: {rejected} rejects, right are {least} (and {repeated} that may be): {reasons}"
            )
        elif rejects is not None and rejects.column("reason").null_count:
            tried.verdict.wrong(f"{table}: a reject without a reason")
        merged = least + repeated - rejected
        if merged > 0 and first and not re.search(rf"\b{merged:,}\b", ingested.out):
            tried.verdict.wrong(f"{table}: {merged} rows are merged and not reported: {ingested.out[-400:]}")


def _check_labelled(verdict: Verdict, repo: Path, wanted: Expected) -> None:
    rows = pq.read_table(repo / "data" / "rows.parquet")
    if "sampled" in rows.column_names:
        rows = rows.filter(pa.compute.invert(rows.column("sampled")))
    at = rows.column("event_timestamp").cast(pa.int64()).to_pylist()
    got = Counter(
        zip(
            rows.column("user_id").to_pylist(),
            rows.column("item_id").to_pylist(),
            at,
            rows.column("label").to_pylist(),
            strict=True,
        )
    )
    right = Counter((event.user_id, event.item_id, event.timestamp, event.label) for event in wanted.events)
    if got != right:
        verdict.wrong(
            f"labelled rows: {list((got - right).items())[:2]} too many, {list((right - got).items())[:2]} missing"
        )


def _check_features(verdict: Verdict, repo: Path, wanted: Expected, as_of: int, draw: random.Random) -> None:
    source = tomllib.loads((repo / "sidkit.toml").read_text())["source"]
    positives_only, conversions = source["feedback"] == "positives_only", source["conversions"]
    events = [event for event in wanted.events if event.timestamp <= as_of]
    if not conversions:
        events = [type(event)(**{**vars(event), "converted": None}) for event in events]
    if positives_only and any(event.label == 0 for event in events):
        verdict.wrong("the log has plain impressions and the repo says positives_only")
        return
    if source["modalities"] != list(_modalities(wanted)) and set(source["modalities"]) < set(_modalities(wanted)):
        verdict.wrong(f"modalities {source['modalities']}, the source has {_modalities(wanted)}")
    settings = Settings(_DELAY, _CADENCE, _LENGTH, positives_only, conversions)
    truth = Oracle(settings, events, wanted.items, wanted.embeddings, _modalities(wanted))
    users, items = {event.user_id for event in events}, {event.item_id for event in events}
    known = {item.item_id for item in wanted.items}
    moments = sorted(
        {
            event.timestamp + extra
            for event in events
            for extra in (0, _DELAY, 2 * _DELAY, DAY + _DELAY, 7 * DAY, 31 * DAY)
        }
    )
    for table, key, keys, ask in (
        ("item_stats", "item_id", items, truth.item_stats), ("user_stats", "user_id", users, truth.user_stats),
        ("user_history", "user_id", users, truth.user_history), ("item_content", "item_id", known, truth.item_content),
    ):  # fmt: skip
        _compare(verdict, repo / "data" / "tables" / f"{table}.parquet", key, keys, ask, moments, as_of, draw)


def _modalities(wanted: Expected) -> tuple[str, ...]:
    return tuple(wanted.embeddings[0].vectors) if wanted.embeddings else ()


def _compare(
    verdict: Verdict,
    path: Path,
    key: str,
    keys: set[str],
    ask: Callable[[str, int], Any],
    moments: list[int],
    as_of: int,
    draw: random.Random,
) -> None:
    held: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    table = pq.read_table(path)
    times = table.column("event_timestamp").cast(pa.int64()).to_pylist()
    for row, at in zip(table.drop_columns(["event_timestamp", "created_timestamp"]).to_pylist(), times, strict=True):
        held.setdefault(row.pop(key), []).append((at, row))
    if late := [at for rows in held.values() for at, _ in rows if at > as_of]:
        verdict.wrong(f"{path.name}: {len(late)} rows beyond --as-of")
    for name in sorted(keys | held.keys()):
        rows = sorted(held.get(name, []), key=lambda pair: pair[0])
        asked = (
            {at for at, _ in rows}
            | {at - 1 for at, _ in rows}
            | set(draw.sample(moments, min(6, len(moments))))
            | {as_of}
        )
        for at in sorted(at for at in asked if at <= as_of):
            place = bisect_right(rows, at, key=lambda pair: pair[0])
            got = rows[place - 1][1] if place else None
            right = ask(name, at)
            if not _same(got, right):
                verdict.wrong(f"{path.name} of {name[:30]!r} at {_iso(at)}: {_short(got)}, right is {_short(right)}")
                return


def _same(got: dict[str, Any] | None, right: dict[str, Any] | None) -> bool:
    if got is None or right is None:
        return got is None and right is None
    return all(got.get(name) == value for name, value in right.items())


def _short(values: dict[str, Any] | None) -> str:
    return str(values)[:260]
