"""Fit an adapter to the newest labelled rows of a repository, and register the adapted ranker."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from ranking.data.dataset import Dataset, LabelledRows, read_rows
from ranking.data.frame_builder import build_dataset
from ranking.data.schema import BUILT_IN
from ranking.data.vocabulary import UNKNOWN
from ranking.training.adapted_ranker import KIND, AdaptedConfig, Window, save_adapted
from ranking.training.adapters import ADAPTER_NAMES
from ranking.training.adapters.base import AdapterRows
from ranking.training.load_ranker import LoadedRanker, load_ranker
from ranking.training.mixing import logits
from ranking.training.serving_spec import ServingSpec, joined_spec
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from semantic_ids.pairs.known_items import known_items
from semantic_ids.records import CodebookRecord, RankerRecord
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import DAY_US, iso
from sidkit.core.config import content_hash
from sidkit.core.errors import (
    ArtifactMissingError,
    ConfigError,
    EvaluationError,
    LeakageError,
    SettingsChangedError,
    UnknownVersionError,
)
from sidkit.core.names import LONGEST_MADE, check_name
from sidkit.core.repo import Repo
from sidkit.tables import read_build
from sidkit.tables.builder import changed_settings

if TYPE_CHECKING:
    from ranking.training.ranker import Ranker
    from ranking.training.reindex import Reindexed


@dataclass(frozen=True)
class AdaptedRankerFacts:
    """A registered adapter.

    Attributes
    ----------
    name : str
        Name of the adapted ranker.
    scorer : str
        The frozen ranker.
    other : str or None
        The second ranker of a gate.
    adapter : str
    fit_start, fit_end : str
        The rows that it was fitted on, half-open; ISO-8601, UTC.
    rows : int
        Their number.
    fitted : dict
        What was fitted, as numbers by name.
    serving : bool
        Whether it serves now.
    before : str or None
        The ranker that served before; None if the adapted one was not promoted.
    after_tables : int
        Rows later than the time up to which the tables were built.
    """

    name: str
    scorer: str
    other: str | None
    adapter: str
    fit_start: str
    fit_end: str
    rows: int
    fitted: dict[str, float]
    serving: bool
    before: str | None
    after_tables: int


def frozen_ranker(repo: Repo, ranker: str | None = None, arm: str | None = None) -> RankerRecord:
    """The ranker that is adapted: the named one, that of an arm, or the serving one; of an adapted ranker, its frozen scorer.

    Raises
    ------
    ConfigError
        When both a ranker and an arm are named, or several rankers have this arm and none of them serves.
    UnknownVersionError
        When there is no such ranker, or none serves.
    """
    catalog = Catalog.open(repo)
    if ranker is not None and arm is not None:
        raise ConfigError(
            f"expected a ranker or an arm, got the ranker {ranker!r} and the arm {arm!r}; name one of them"
        )
    if ranker is not None:
        return _scorer_of(repo, catalog, catalog.ranker(ranker))
    records = catalog.rankers()
    serving = [_scorer_of(repo, catalog, record) for record in records if record.state == "serving"]
    if arm is None:
        return serving[0] if serving else catalog.serving_ranker()
    named = [record for record in records if record.arm == arm and not _is_adapted(repo, record)]
    if not named:
        arms = sorted({record.arm for record in records if not _is_adapted(repo, record)})
        raise UnknownVersionError("arm with a ranker", arm, arms)
    chosen = [record for record in serving if record in named] or named
    if len(chosen) > 1:
        listed = ", ".join(record.name for record in chosen)
        raise ConfigError(f"expected one ranker of arm {arm!r}, got {listed}; name one of them with --ranker")
    return chosen[0]


def adapt_ranker(
    repo: Repo,
    scorer: RankerRecord,
    *,
    adapter: str = "bias",
    other: RankerRecord | None = None,
    days: float = 1.0,
    until_us: int | None = None,
    reindex: bool = False,
) -> AdaptedRankerFacts:
    """Fit an adapter to labelled rows that the frozen scorer has not seen, and register the adapted ranker.

    The rows are those of the last ``days`` before ``until_us`` whose labels were known by then, from the end of the scorers'
    fits on. The caller must hold the repository's lock. Fitting again on the same rows gives the same ranker.

    Parameters
    ----------
    repo : Repo
        A repository with labelled rows and built tables.
    scorer : RankerRecord
        The frozen ranker, of any kind.
    adapter : str
        Name of the adapter, or a plug-in.
    other : RankerRecord, optional
        The second scorer of a gate; it must have the same codebook and item vectors.
    days : float
        Length of the window in days.
    until_us : int, optional
        End of the window, microseconds UTC; default: when the label of the last row was known.
    reindex : bool
        Also give the items that are newer than the frozen ranker, and have content by ``until_us``, rows of its id table
        (:mod:`ranking.training.reindex`).

    Raises
    ------
    ConfigError
        When there is no such adapter, it takes no second scorer, or the scorers do not fit together.
    ArtifactMissingError
        When the labelled rows were not written.
    LeakageError
        When all rows are from before the end of a scorer's fit.
    EvaluationError
        When the window has no rows.
    FitError
        When there are no ids to reindex.
    SettingsChangedError
        When the settings of features changed since the scorer was trained.
    """
    adapter = ADAPTER_NAMES.resolved(adapter)
    kind = ADAPTER_NAMES.find(adapter)
    _check_window(adapter, other, days)
    records = [scorer] if other is None else [scorer, other]
    catalog = Catalog.open(repo)
    codebook = catalog.codebook(scorer.codebook)
    rankers = [load_ranker(repo.rankers / record.name, codebook, "adapting a ranker") for record in records]
    _check_scorers(repo, records, rankers)
    ends = {record.name: record.fit_end_us for record in records} | {codebook.name: codebook.fit_end_us}
    rows, window = _recent(repo, rankers[0], days, until_us, ends)
    found = _reindexed(repo, rankers[0], codebook, window.end_us) if reindex else None
    table = found.table() if found is not None else None
    if table is not None:
        from ranking.training.reindex import extend

        extend(cast("Ranker", rankers[0]), table)
    data = [_features(repo, ranker, rows, codebook) for ranker in rankers]
    read = AdapterRows.of(data[0], *(logits(each.score(part)) for each, part in zip(rankers, data, strict=True)))
    fitted = kind.fit(read)
    config = _config(adapter, records, rankers)
    name = _name(scorer, kind.name, [fitted.table(), *([table] if table is not None else [])], window, records)
    facts = {"name": name, "feature_settings": repo.settings.feature_settings()}
    manifest = save_adapted(repo.rankers, facts, config, fitted, window, {"adapter": fitted.summary}, table)
    catalog.add_ranker(
        name,
        content_hash=manifest["content_hash"],
        codebook=codebook.name,
        service=scorer.service,
        arm=config.arm,
        fit_end_us=window.end_us,
    )
    return AdaptedRankerFacts(
        name,
        scorer.name,
        other.name if other is not None else None,
        kind.name,
        iso(window.start_us),
        iso(window.end_us),
        window.rows,
        {**fitted.summary, **({"new_items": float(len(found.ids)), "error": found.error} if found is not None else {})},
        serving=catalog.ranker(name).state == "serving",
        before=None,
        after_tables=int((rows.at_us > read_build(repo)["as_of_us"]).sum()),
    )


def _check_window(adapter: str, other: RankerRecord | None, days: float) -> None:
    if other is not None and not ADAPTER_NAMES.find(adapter).takes_other:
        raise ConfigError(
            f"expected one ranker for the adapter {adapter!r}, got a second one, {other.name}; remove it, or use the adapter "
            "'gate'"
        )
    if not (np.isfinite(days) and days > 0):
        raise ConfigError(f"expected a number of days above 0, got {days:g}; one day is usual")


def _check_scorers(repo: Repo, records: list[RankerRecord], rankers: list[LoadedRanker]) -> None:
    for record in records:
        made_with, current = (
            read_manifest(repo.rankers / record.name)["feature_settings"],
            repo.settings.feature_settings(),
        )
        if content_hash(made_with) != content_hash(current):
            changes = changed_settings(made_with, current)
            raise SettingsChangedError(f"ranker {record.name}", changes, "Restore the old values, or train it again.")
    first = rankers[0]
    for record, ranker in zip(records[1:], rankers[1:], strict=True):
        for what in ("codebook", "service", "vectors", "target"):
            expected, got = getattr(first.config, what), getattr(ranker.config, what)
            if expected != got:
                raise ConfigError(
                    f"expected a second ranker with the {what} of {records[0].name}, {expected!r}, got {got!r} of "
                    f"{record.name}; name another one (`sidkit ranker list`)"
                )


def _recent(
    repo: Repo, ranker: LoadedRanker, days: float, until_us: int | None, ends: dict[str, int]
) -> tuple[LabelledRows, Window]:
    """The rows of the window, and the window."""
    if not repo.labelled_rows.is_file():
        raise ArtifactMissingError(repo.labelled_rows, "write them with `sidkit tables rows`")
    given = read_rows(repo.labelled_rows, target=ranker.config.target, context=ranker.config.schema.context)
    delay_us = repo.settings.time.delay_us
    end_us = int(given.at_us.max(initial=0)) + delay_us if until_us is None else until_us
    fitted_us = max(ends.values())
    start_us = max(end_us - round(days * DAY_US), fitted_us)
    index = np.flatnonzero((given.at_us >= start_us) & (given.at_us + delay_us <= end_us))
    if not len(index) and end_us - delay_us < fitted_us:
        remedy = (
            "Add later events to the log and write their rows with `sidkit tables rows`, or adapt an earlier ranker"
        )
        parents = {name: iso(end) for name, end in ends.items()}
        raise LeakageError(iso(max(end_us - round(days * DAY_US), 0)), parents, training=True, remedy=remedy)
    if not len(index):
        raise EvaluationError(
            f"expected labelled rows from {iso(start_us)} to {iso(end_us)}, got none; use more days, or a later end"
        )
    return given.take(index), Window(start_us, end_us, len(index))


def _features(repo: Repo, ranker: LoadedRanker, rows: LabelledRows, codebook: CodebookRecord) -> Dataset:
    return _built(repo, ranker.config, ranker.smoothing_rate, rows, codebook)


def _built(repo: Repo, config: ServingSpec, rate: float, rows: LabelledRows, codebook: CodebookRecord) -> Dataset:
    from sidkit.stores.feast_repo import open_store

    return build_dataset(
        open_store(repo),
        config.service,
        Codebook.load(repo.codebooks / codebook.name),
        rows,
        rate=rate,
        history_length=config.history_length,
        schema=config.schema,
        vectors=config.vectors,
    )


def _reindexed(repo: Repo, ranker: LoadedRanker, codebook: CodebookRecord, until_us: int) -> Reindexed:
    """Rows for the items with content at a time that the ranker's vocabulary lacks."""
    from ranking.training.reindex import id_table, reindex

    id_table(ranker)  # raises without one
    neural = cast("Ranker", ranker)
    known = neural.vocabulary.names.to_numpy(zero_copy_only=False).astype(object)
    there = known_items(repo, until_us).ids
    new = there[neural.vocabulary.numbers(there) == UNKNOWN]
    ids = np.concatenate([known, new])
    rows = LabelledRows(
        np.full(len(ids), "", dtype=object), ids, np.full(len(ids), until_us), np.zeros(len(ids), np.int8)
    )
    plain = replace(neural.config, schema=BUILT_IN)
    data = _built(repo, plain, neural.smoothing_rate, rows, codebook)
    content = data.items.content[data.candidate]
    return reindex(neural, content[: len(known)], new, content[len(known) :])


def _config(adapter: str, records: list[RankerRecord], rankers: list[LoadedRanker]) -> AdaptedConfig:
    return AdaptedConfig(
        arm=f"{records[0].arm}_{ADAPTER_NAMES.find(adapter).name}",
        adapter=adapter,
        rate=rankers[0].smoothing_rate,
        positives=rankers[0].positive_rate,
        scorers=tuple(record.name for record in records),
        **vars(joined_spec([ranker.config for ranker in rankers])),
    )


def _name(
    scorer: RankerRecord, adapter: str, tables: Sequence[pa.Table], window: Window, records: list[RankerRecord]
) -> str:
    """``<scorer>_<adapter>_<end>_<hash>``; the hash is of the scorers, the window and what was fitted."""
    sink = pa.BufferOutputStream()
    for table in tables:
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    inputs: list[Any] = [[record.content_hash for record in records], vars(window)]
    digest = content_hash([*inputs, hashlib.sha256(sink.getvalue()).hexdigest()])[:6]
    end = iso(window.end_us)[:16].replace("-", "").replace(":", "").lower()
    stem = f"_{adapter}_{end}_{digest}"
    return check_name("ranker", scorer.name[: LONGEST_MADE - len(stem)] + stem, LONGEST_MADE)


def _is_adapted(repo: Repo, record: RankerRecord) -> bool:
    folder = repo.rankers / record.name
    return folder.is_dir() and read_manifest(folder, verify=False).get("kind") == KIND


def _scorer_of(repo: Repo, catalog: Catalog, record: RankerRecord) -> RankerRecord:
    """The ranker itself, or the frozen scorer of an adapted one."""
    if not _is_adapted(repo, record):
        return record
    return catalog.ranker(read_manifest(repo.rankers / record.name)["parents"][0]["name"])
