"""Compare a frame with the log, row by row and cell by cell; stops at the first mismatch."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ranking.audit.context import AnyOf
from ranking.audit.counts_by_code import CODE_FEATURES
from ranking.audit.derived import PastItem, derived_cells
from ranking.audit.expected import HISTORY_CODES, plain_name, saved_cells
from ranking.audit.frames import AuditedRows
from ranking.audit.reference import Cells, LogReference
from sidkit.core.clock import iso
from sidkit.core.engine import literal
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, USER_ATTRIBUTES
from sidkit.core.integrity import checked
from sidkit.core.repo import Repo
from sidkit.tables import read_log

_NOT_RECOMPUTED = frozenset({"item_sid__assigned_at_us"})  # the wall clock of the assignment; no model reads it

_COUNT = re.compile(r"(exposures|clicks|conversions)_(1d|7d|30d|all)$")
"""Features that are counts, and equal only if no event is missing; a saved frame has them as float32."""


@dataclass(frozen=True)
class Difference:
    """A cell of a frame that differs from the value recomputed from the log.

    ``expected_known_from`` and ``found_known_from`` are the times (ISO-8601, UTC) from which serving could read the two
    values; None for a value that the log never contained. If ``found_known_from`` is later than ``at``, the value leaked
    from the future.
    """

    row: int
    user_id: str
    item_id: str
    at: str
    feature: str
    expected: Any
    found: Any
    expected_known_from: str | None
    found_known_from: str | None

    def as_text(self) -> str:
        """Format both values and the times from which they were known."""
        expected, actual = _format_values(self.expected, self.found)
        known = f" (known from {self.expected_known_from})" if self.expected_known_from else ""
        if self.found_known_from is None:
            origin = " (not in the log)"
        elif self.found_known_from > self.at:
            origin = f" (known from {self.found_known_from}, AFTER the row)"
        else:
            origin = f" (known from {self.found_known_from}, outdated at the time of the row)"
        return (
            f"row {self.row} (user {self.user_id}, item {self.item_id}, at {self.at}): {self.feature}\n"
            f"  expected {expected}{known}\n  got      {actual}{origin}"
        )


@dataclass(frozen=True)
class RowsAudit:
    """Result of comparing the rows of a frame with the log.

    ``cells`` counts the compared cells. ``not_recomputable`` counts the cells that were skipped because the log only has the
    corrected content or attributes of their items. ``not_audited`` lists the frame's columns that the audit does not recompute.
    ``difference`` is the first mismatch.
    """

    source: str
    total: int
    rows: int
    cells: int
    not_recomputable: int
    not_audited: tuple[str, ...]
    difference: Difference | None

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def audit_rows(repo: Repo, rows: AuditedRows, reference: LogReference) -> RowsAudit:
    """Compare a sample with the log.

    Parameters
    ----------
    repo : Repo
        Repository of the log and the tables.
    rows : AuditedRows
        Sampled rows of a frame.
    reference : LogReference
        Reference of the same repository, with the codebook of the frame's feature service.
    """
    plain = reference.cells(rows.user_ids, rows.item_ids, rows.at_us)
    expected = _with_codes(rows, plain, reference) if rows.rate is None else _expected(rows, plain, reference)
    corrected, corrected_attributes = _corrected(repo), reference.attributes.corrected()
    compared, skipped, difference = 0, 0, None
    counted = tuple(f"{view}__" for view in reference.by_value.views)
    extra = set().union(*(row.keys() for row in rows.cells)) - (set().union(*(row.keys() for row in expected)))
    for index, actual in enumerate(rows.cells):
        stale_item = corrected.get(rows.item_ids[index], -math.inf) > rows.at_us[index]
        stale_history = bool(corrected) and not corrected.keys().isdisjoint(
            plain[index]["user_history__item_ids"] or []
        )
        stale_views = {
            view
            for view, late_us in corrected_attributes.items()
            if late_us.get((rows.user_ids if view == USER_ATTRIBUTES else rows.item_ids)[index], -math.inf)
            > rows.at_us[index]
        }
        late_items = corrected_attributes.get(ITEM_ATTRIBUTES, {})
        past = {rows.item_ids[index], *(plain[index]["user_history__item_ids"] or [])}
        stale_affinity = bool(late_items) and not late_items.keys().isdisjoint(past)
        if rows.rate is not None:
            skipped += sum(each.startswith(counted) for each in actual.keys() - expected[index].keys())
        for feature, value in expected[index].items():
            if feature not in actual or feature in _NOT_RECOMPUTED:
                continue
            is_content = plain_name(feature).startswith(("item_content", "item_sid"))
            stale = feature.partition("__")[0] in stale_views or (stale_affinity and feature.startswith("affinity__"))
            if stale or (stale_item and is_content) or (stale_history and feature == HISTORY_CODES):
                skipped += 1
                continue
            compared += 1
            if not _same(feature, value, actual[feature], plain[index], reference):
                difference = _difference(rows, index, feature, value, actual[feature], reference)
                break
        if difference:
            break
    not_audited = tuple(sorted(name for name in extra - _NOT_RECOMPUTED if "__" in name or rows.rate is not None))
    return RowsAudit(rows.source, rows.total, len(rows), compared, skipped, not_audited, difference)


def _with_codes(rows: AuditedRows, plain: list[Cells], reference: LogReference) -> list[Cells]:
    """Add the counts per code prefix to plain features if the frame has any; they take a pass over the log."""
    if not any(name.startswith(CODE_FEATURES) for row in rows.cells[:1] for name in row):
        return plain
    counts = reference.by_code.plain_cells(rows.user_ids, rows.item_ids, rows.at_us)
    return [row | own for row, own in zip(plain, counts, strict=True)]


def _expected(rows: AuditedRows, plain: list[Cells], reference: LogReference) -> list[Cells]:
    """Recompute the cells of a saved frame, including the codes of the history's items at the row's time."""
    if rows.rate is None:
        raise ValueError("expected the rows of a saved frame, got rows without a rate")
    lengths = [len(row["user_history__item_ids"] or []) for row in plain]
    ids = np.array([item for row in plain for item in row["user_history__item_ids"] or []], dtype=object)
    at_us = np.repeat(rows.at_us, lengths)
    numbers = iter(reference.content_numbers(ids, at_us))
    attributes = iter(reference.attributes.cells([""] * len(ids), ids, at_us))
    expected = []
    by_value = reference.by_value.cells(rows.user_ids, rows.item_ids, rows.at_us, rows.rate)
    had_before = reference.had_before(rows.user_ids, rows.item_ids, rows.at_us)
    context = reference.context.cells(rows.user_ids, rows.item_ids, rows.at_us)
    for index, row in enumerate(plain):
        cells = saved_cells(row, rows.item_ids[index], int(rows.at_us[index]), rows.rate)
        cells[HISTORY_CODES] = [reference.content(next(numbers)) for _ in row["user_history__item_ids"] or []]
        cells["had_before"] = had_before[index]
        history = [
            PastItem(item, us, next(attributes))
            for item, us in zip(
                row["user_history__item_ids"] or [], row["user_history__timestamps_us"] or [], strict=True
            )
        ]
        cells |= derived_cells(rows.schema, row, rows.item_ids[index], int(rows.at_us[index]), history)
        expected.append(cells | by_value[index] | context[index])
    by_code = reference.by_code.saved_cells(
        rows.user_ids, rows.item_ids, rows.at_us, plain, user_rates=expected, rate=rows.rate
    )
    return [cells | own for cells, own in zip(expected, by_code, strict=True)]


def _corrected(repo: Repo) -> dict[str, int]:
    """Map items whose content was corrected in place to the time of the correction (microseconds UTC).

    The log has the corrected content only, so the content that serving used before cannot be recomputed.
    """
    log = read_log(repo)
    if log.items.stem.endswith("-00000") and log.embeddings.stem.endswith("-00000"):
        return {}
    import duckdb

    delay_us = repo.settings.time.delay_us
    columns = {path: set(pq.read_schema(path).names) for path in (log.items, log.embeddings)}
    item_time = "coalesce(updated_at, created_at)" if "updated_at" in columns[log.items] else "created_at"
    vectors = (
        f"UNION SELECT item_id, epoch_us(updated_at) FROM read_parquet({literal(log.embeddings)})"
        if "updated_at" in columns[log.embeddings]
        else ""
    )
    with duckdb.connect() as opened:
        rows = opened.execute(f"""
            WITH log_versions AS (
                SELECT item_id, epoch_us({item_time}) AS us FROM read_parquet({literal(log.items)})
                UNION SELECT item_id, epoch_us(created_at) FROM read_parquet({literal(log.items)}) {vectors}
            )
            SELECT item_id, max(us) FROM (
                SELECT item_id, epoch_us(event_timestamp) - {delay_us} AS us
                FROM read_parquet({literal(checked(repo.tables / "item_content.parquet"))})
            ) AS rows ANTI JOIN log_versions USING (item_id, us) GROUP BY item_id
        """).fetchall()
    return {item: us + delay_us for item, us in rows}


def _same(feature: str, expected: Any, actual: Any, plain: Cells, reference: LogReference) -> bool:
    if isinstance(expected, AnyOf):
        return any(_same(feature, value, actual, plain, reference) for value in expected.values)
    if _COUNT.search(feature) and isinstance(expected, int | float) and isinstance(actual, int | float):
        return bool(np.float32(expected) == np.float32(actual))
    if feature == "item_content":
        vector = np.zeros_like(actual) if expected is None else expected
        return bool(np.allclose(actual, vector, rtol=1e-3, atol=1e-4))
    if feature == HISTORY_CODES:
        return len(expected) == len(actual) and all(
            _same("item_sid__codes", item["item_sid__codes"], codes, item, reference)
            for item, codes in zip(expected, actual, strict=True)
        )
    if feature == "item_sid__codes" and None not in (expected, actual) and expected != actual:
        return _tie(plain["item_content"], expected, actual, reference)
    return _equal(expected, actual, 1e-3 if feature == "item_sid__residual_norm" else 1e-5)


def _equal(expected: Any, actual: Any, tolerance: float) -> bool:
    if isinstance(expected, float) and isinstance(actual, float):
        close = math.isclose(expected, actual, rel_tol=tolerance, abs_tol=tolerance / 10)
        return close or (math.isnan(expected) and math.isnan(actual))
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(
            _equal(left, right, tolerance) for left, right in zip(expected, actual, strict=True)
        )
    return bool(expected == actual)


def _tie(vector: Any, expected: list[int], actual: list[int], reference: LogReference) -> bool:
    """Whether both codes are equally close to the vector: which of the two a search returns depends on the batch."""
    quantizer = reference.codebook.quantizer
    if len(expected) != len(actual) or any(
        not 0 <= code < size for code, size in zip(actual, quantizer.sizes_, strict=True)
    ):
        return False
    left, right = np.linalg.norm(quantizer.decode(np.array([expected, actual], dtype=np.int32)) - vector, axis=1)
    return math.isclose(left, right, rel_tol=1e-5, abs_tol=1e-6)


def _difference(
    rows: AuditedRows, index: int, feature: str, expected: Any, actual: Any, reference: LogReference
) -> Difference:
    base = plain_name(feature)
    times_us: tuple[int | None, int | None] = (None, None)
    if feature == HISTORY_CODES:
        expected = [item["item_sid__codes"] for item in expected]
    if isinstance(expected, AnyOf):
        expected = list(expected.values)
    shown = (_to_list(expected), _to_list(actual))
    at_us = int(rows.at_us[index])
    if "__" in base and not isinstance(actual, np.ndarray):
        values = (_round_count(feature, expected), _round_count(feature, actual))
        timeline = reference.timeline(base, rows.user_ids[index], rows.item_ids[index], at_us)
        before = [us for us, _ in timeline if us <= at_us]
        times_us = (before[-1] if before else None, _known_from(timeline, values[1], at_us))
        if base.startswith(("item_stats", "user_stats")):
            shown, feature = values, base
    return Difference(
        int(rows.numbers[index]),
        rows.user_ids[index],
        rows.item_ids[index],
        iso(at_us),
        feature,
        *shown,
        *(iso(us) if us is not None else None for us in times_us),
    )


def _round_count(name: str, value: Any) -> Any:
    """Convert a count of a saved frame, stored as float32, to an integer; return other values unchanged."""
    return round(value) if name != plain_name(name) and "_stats__" in plain_name(name) else value


def _known_from(timeline: list[tuple[int, Any]], value: Any, at_us: int) -> int | None:
    """First time after ``at_us`` at which serving read ``value``, else the last time before it, else None."""
    matching = [us for us, known in timeline if known == value]
    later = [us for us in matching if us > at_us]
    return later[0] if later else (matching[-1] if matching else None)


def _to_list(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _format_values(expected: Any, actual: Any) -> tuple[str, str]:
    """Format two values; long lists are shown from their first difference on."""
    if not (isinstance(expected, list) and isinstance(actual, list) and max(len(expected), len(actual)) > 8):
        return repr(expected), repr(actual)
    first = next(
        (index for index, (left, right) in enumerate(zip(expected, actual, strict=False)) if left != right),
        min(len(expected), len(actual)),
    )
    texts = [
        f"... {value[first : first + 3]!r} ... from index {first}, length {len(value)}" for value in (expected, actual)
    ]
    return texts[0], texts[1]
