"""Compare a frame with the log, row by row and cell by cell; stops at the first mismatch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ranking.audit.expected import HISTORY_CODES, plain_name, saved_cells
from ranking.audit.frames import AuditedRows
from ranking.audit.reference import Cells, LogReference
from sidkit.core.clock import iso
from sidkit.core.engine import literal
from sidkit.core.integrity import checked
from sidkit.core.repo import Repo
from sidkit.tables import read_log

_NOT_RECOMPUTED = frozenset({"item_sid__assigned_at_us"})  # the wall clock of the assignment; no model reads it


@dataclass(frozen=True)
class Difference:
    """One cell in which a frame and the log disagree.

    ``expected_known_from`` and ``found_known_from`` are the moments (ISO-8601, UTC) from which serving could read the two
    values, None where it never could: a ``found_known_from`` after ``at`` is the future.
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
        """Two values and when each was known."""
        expected, found = _apart(self.expected, self.found)
        known = f"; the log knows it from {self.expected_known_from} on" if self.expected_known_from else ""
        if self.found_known_from is None:
            origin = "; the log never says that"
        elif self.found_known_from > self.at:
            origin = f"; that was known from {self.found_known_from} on, AFTER the row"
        else:
            origin = f"; that was known from {self.found_known_from} on, and it was out of date"
        return (
            f"row {self.row} (user {self.user_id}, item {self.item_id}, at {self.at}): {self.feature}\n"
            f"  expected {expected}{known}\n  found    {found}{origin}"
        )


@dataclass(frozen=True)
class RowsAudit:
    """What was compared: rows, cells, cells that the log can no longer tell (content corrected in place), columns of
    the frame that the audit knows nothing of, and the first difference.
    """

    source: str
    total: int
    rows: int
    cells: int
    not_recomputable: int
    not_audited: tuple[str, ...]
    difference: Difference | None

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def audit_rows(repo: Repo, rows: AuditedRows, reference: LogReference) -> RowsAudit:
    """Compare a sample with the log.

    Parameters
    ----------
    repo : Repo
        Whose log and tables they are.
    rows : AuditedRows
        The sample.
    reference : LogReference
        Of the same repo, with the codebook of the frame's feature service.
    """
    plain = reference.cells(rows.user_ids, rows.item_ids, rows.at_us)
    expected = plain if rows.rate is None else _expected(rows, plain, reference)
    corrected = _corrected(repo)
    compared, skipped, difference = 0, 0, None
    strangers = set().union(*(row.keys() for row in rows.cells)) - (set().union(*(row.keys() for row in expected)))
    for at, found in enumerate(rows.cells):
        stale = corrected.get(rows.item_ids[at], -math.inf) > rows.at_us[at]
        listed = bool(corrected) and not corrected.keys().isdisjoint(plain[at]["user_history__item_ids"] or [])
        for feature, wanted in expected[at].items():
            if feature not in found or feature in _NOT_RECOMPUTED:
                continue
            of_content = plain_name(feature).startswith(("item_content", "item_sid"))
            if (stale and of_content) or (listed and feature == HISTORY_CODES):
                skipped += 1
                continue
            compared += 1
            if not _same(feature, wanted, found[feature], plain[at], reference):
                difference = _difference(rows, at, feature, wanted, found[feature], reference)
                break
        if difference:
            break
    unknown = tuple(sorted(name for name in strangers - _NOT_RECOMPUTED if "__" in name or rows.rate is not None))
    return RowsAudit(rows.source, rows.total, len(rows), compared, skipped, unknown, difference)


def _expected(rows: AuditedRows, plain: list[Cells], reference: LogReference) -> list[Cells]:
    """What a saved frame must say, the codes of the history's items as of the row's time included."""
    if rows.rate is None:
        raise ValueError("only a saved frame has a rate")
    lengths = [len(row["user_history__item_ids"] or []) for row in plain]
    ids = np.array([item for row in plain for item in row["user_history__item_ids"] or []], dtype=object)
    numbers = iter(reference.content_numbers(ids, np.repeat(rows.at_us, lengths)))
    expected = []
    before = reference.had_before(rows.user_ids, rows.item_ids, rows.at_us)
    for at, row in enumerate(plain):
        cells = saved_cells(row, rows.item_ids[at], int(rows.at_us[at]), rows.rate)
        cells[HISTORY_CODES] = [reference.content(next(numbers)) for _ in row["user_history__item_ids"] or []]
        cells["had_before"] = before[at]
        expected.append(cells)
    return expected


def _corrected(repo: Repo) -> dict[str, int]:
    """Items whose content was corrected in place, and from when on (microseconds UTC).

    The log keeps the corrected content only, so what serving had before cannot be recomputed from it.
    """
    log = read_log(repo)
    if log.items.stem.endswith("-00000") and log.embeddings.stem.endswith("-00000"):
        return {}
    import duckdb

    delay_us = repo.settings.time.delay_us
    has = {path: set(pq.read_schema(path).names) for path in (log.items, log.embeddings)}
    own = "coalesce(updated_at, created_at)" if "updated_at" in has[log.items] else "created_at"
    vectors = (
        f"UNION SELECT item_id, epoch_us(updated_at) FROM read_parquet({literal(log.embeddings)})"
        if "updated_at" in has[log.embeddings]
        else ""
    )
    with duckdb.connect() as opened:
        found = opened.execute(f"""
            WITH stated AS (
                SELECT item_id, epoch_us({own}) AS us FROM read_parquet({literal(log.items)})
                UNION SELECT item_id, epoch_us(created_at) FROM read_parquet({literal(log.items)}) {vectors}
            )
            SELECT item_id, max(us) FROM (
                SELECT item_id, epoch_us(event_timestamp) - {delay_us} AS us
                FROM read_parquet({literal(checked(repo.tables / "item_content.parquet"))})
            ) AS rows ANTI JOIN stated USING (item_id, us) GROUP BY item_id
        """).fetchall()
    return {item: us + delay_us for item, us in found}


def _same(feature: str, expected: Any, found: Any, plain: Cells, reference: LogReference) -> bool:
    if feature == "item_content":
        wanted = np.zeros_like(found) if expected is None else expected
        return bool(np.allclose(found, wanted, rtol=1e-3, atol=1e-4))
    if feature == HISTORY_CODES:
        return len(expected) == len(found) and all(
            _same("item_sid__codes", item["item_sid__codes"], codes, item, reference)
            for item, codes in zip(expected, found, strict=True)
        )
    if feature == "item_sid__codes" and None not in (expected, found) and expected != found:
        return _tie(plain["item_content"], expected, found, reference)
    return _equal(expected, found, 1e-3 if feature == "item_sid__residual_norm" else 1e-5)


def _equal(expected: Any, found: Any, tolerance: float) -> bool:
    if isinstance(expected, float) and isinstance(found, float):
        close = math.isclose(expected, found, rel_tol=tolerance, abs_tol=tolerance / 10)
        return close or (math.isnan(expected) and math.isnan(found))
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(
            _equal(one, other, tolerance) for one, other in zip(expected, found, strict=True)
        )
    return bool(expected == found)


def _tie(vector: Any, expected: list[int], found: list[int], reference: LogReference) -> bool:
    """Whether both codes are equally near to the vector: which of them a search gives depends on the batch."""
    quantizer = reference.codebook.quantizer
    if len(expected) != len(found) or any(
        not 0 <= code < size for code, size in zip(found, quantizer.sizes, strict=True)
    ):
        return False
    one, other = np.linalg.norm(quantizer.decode(np.array([expected, found], dtype=np.int32)) - vector, axis=1)
    return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6)


def _difference(
    rows: AuditedRows, at: int, feature: str, expected: Any, found: Any, reference: LogReference
) -> Difference:
    base = plain_name(feature)
    moments: tuple[int | None, int | None] = (None, None)
    if feature == HISTORY_CODES:
        expected = [item["item_sid__codes"] for item in expected]
    shown = (_plainly(expected), _plainly(found))
    if "__" in base and not isinstance(found, np.ndarray):
        wanted = (_as_plain(feature, expected), _as_plain(feature, found))
        timeline = reference.timeline(base, rows.user_ids[at], rows.item_ids[at])
        before = [us for us, value in timeline if us <= rows.at_us[at]]
        moments = (before[-1] if before else None, _known_from(timeline, wanted[1], int(rows.at_us[at])))
        if base.startswith(("item_stats", "user_stats")):
            shown, feature = wanted, base
    return Difference(
        int(rows.numbers[at]),
        rows.user_ids[at],
        rows.item_ids[at],
        iso(int(rows.at_us[at])),
        feature,
        *shown,
        *(iso(us) if us is not None else None for us in moments),
    )


def _as_plain(name: str, value: Any) -> Any:
    """A count of a saved frame, which holds it as float32, as an integer."""
    return round(value) if name != plain_name(name) and "_stats__" in plain_name(name) else value


def _known_from(timeline: list[tuple[int, Any]], value: Any, at_us: int) -> int | None:
    """The first moment after the row at which serving read this value, or else the last one before it."""
    there = [us for us, each in timeline if each == value]
    later = [us for us in there if us > at_us]
    return later[0] if later else (there[-1] if there else None)


def _plainly(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _apart(expected: Any, found: Any) -> tuple[str, str]:
    """Two values as text; of long lists only where they part."""
    if not (isinstance(expected, list) and isinstance(found, list) and max(len(expected), len(found)) > 8):
        return repr(expected), repr(found)
    first = next(
        (at for at, (one, other) in enumerate(zip(expected, found, strict=False)) if one != other),
        min(len(expected), len(found)),
    )
    texts = [f"... {value[first : first + 3]!r} ... from place {first} of {len(value)}" for value in (expected, found)]
    return texts[0], texts[1]
