"""Files of rows: a frame in their order with the features of their keys, an evaluation of the right rows, or a refusal."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .generators_rows import RowsFile, draw_rows_file
from .oracle import auc
from .outcome import CLEAR, RIGHT, Ran, Verdict, error_of
from .place import Place

LEAST_PER_CLASS = 50
"""Below so many rows of a class an evaluation gives no AUC."""


def case(draw: random.Random, place: Place) -> Verdict:
    """Try one file with one of the two commands."""
    path = place.root / "in" / "rows.parquet"
    found = draw_rows_file(draw, place.answers.pool, path)
    if draw.random() < 0.5:
        out = place.root / "out" / "frame.parquet"
        ran = place.command("frame", "--repo", place.repo, "--rows", path, "--out", out)
        verdict = Verdict(did="frame: " + "; ".join(found.did))
        bad = found.invalid
        accepted = _accepted(verdict, found, ran, must_refuse=found.must_refuse, bad=bad)
        if accepted:
            _check_frame(verdict, place, found, pq.read_table(out), ran)
        elif out.exists():
            verdict.wrong("it failed and leaves a frame")
        return verdict
    ran = place.command("ranker", "evaluate", place.answers.ranker, "--repo", place.repo, "--rows", path, "--json")
    verdict = Verdict(did="evaluate: " + "; ".join(found.did))
    bad = found.invalid | found.invalid_label
    if _accepted(verdict, found, ran, must_refuse=found.must_refuse or found.refuse_labels, bad=bad):
        _check_evaluation(verdict, place, found, json.loads(ran.out), bad)
    return verdict


def _accepted(verdict: Verdict, found: RowsFile, ran: Ran, *, must_refuse: bool, bad: set[int]) -> bool:
    outcome, why = error_of(ran, names=found.names if must_refuse else ())
    verdict.add(outcome, why)
    labels = {row["label"] for place, row in enumerate(found.rows) if place not in bad}
    one_class = ran.arguments[0] == "ranker" and len(labels) < 2
    if outcome == CLEAR and not (must_refuse or bad or found.odd or one_class):
        verdict.wrong(f"refused although it is right: {why}")
    if outcome == RIGHT and must_refuse:
        verdict.wrong(f"accepted although {found.odd or found.did}")
        return False
    return outcome == RIGHT


def _check_frame(verdict: Verdict, place: Place, found: RowsFile, frame: pa.Table, ran: Ran) -> None:
    kept = [n for n in range(len(found.rows)) if n not in found.invalid]
    if len(frame) != len(found.rows):
        # Rows that break the contract may be left out, and then the command says so.
        if not found.invalid or len(frame) != len(kept) or str(len(found.rows) - len(kept)) not in ran.out + ran.err:
            verdict.wrong(f"{len(frame)} rows of {len(found.rows)}, {len(found.invalid)} of which are invalid")
            return
    elif found.invalid:
        verdict.wrong(f"{len(found.invalid)} rows without a key or a moment got features: {sorted(found.invalid)[:3]}")
        return
    rows = [found.rows[n] for n in kept]
    for key in ("user_id", "item_id"):
        if list(map(_text, frame.column(key).to_pylist())) != [row[key] for row in rows]:
            verdict.wrong(f"{key} is not what it was, or in another order")
            return
    moments = frame.column("event_timestamp").type
    if pa.types.is_timestamp(moments):
        at = frame.column("event_timestamp").cast(pa.timestamp("us", moments.tz)).cast(pa.int64()).to_pylist()
        if at != [row["at_us"] for row in rows]:
            verdict.wrong("event_timestamp is not what it was")
    for name, values in found.extra.items():
        if frame.column(name).to_pylist() != [values[n] for n in kept]:
            verdict.wrong(f"column {name!r} is not what it was")
    features = list(place.answers.frame[0])
    if missing := [name for name in features if name not in frame.column_names]:
        verdict.wrong(f"no column {missing[0]}")
        return
    got = frame.select(features).to_pylist()
    for row, values in zip(rows, got, strict=True):
        if row["pool"] is None:
            continue
        right = place.answers.frame[row["pool"]]
        if not all(_same(values[name], right[name]) for name in features):
            name = next(name for name in features if not _same(values[name], right[name]))
            verdict.wrong(
                f"{name} of {row['user_id']}, {row['item_id']}: {values[name]!r:.100}, right is {right[name]!r:.100}"
            )
            return


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _same(got: Any, right: Any) -> bool:
    if isinstance(got, float) and isinstance(right, float):
        return got == right or (math.isnan(got) and math.isnan(right))
    if isinstance(got, list) and isinstance(right, list):
        return len(got) == len(right) and all(map(_same, got, right))
    return bool(got == right)


def _check_evaluation(verdict: Verdict, place: Place, found: RowsFile, told: dict[str, Any], bad: set[int]) -> None:
    rows = [row for n, row in enumerate(found.rows) if n not in bad and row["at_us"] >= place.answers.fit_end_us]
    counted = told["rows"]["all"]["rows"]
    if counted != len(rows):
        verdict.wrong(
            f"it evaluates {counted} rows, right are {len(rows)}; {len(bad)} of {len(found.rows)} are invalid"
        )
        return
    if any(row["pool"] is None for row in rows):
        return
    labels = [row["label"] for row in rows]
    enough = min(labels.count(0), labels.count(1)) >= LEAST_PER_CLASS
    scores = [place.answers.pool_scores[row["pool"]] for row in rows]
    right = auc(labels, scores) if enough else None
    got = told["slices"]["all"]["auc"]
    allowed = 1e-4 + (_near_ties(labels, scores) if enough else 0)
    if (got is None) != (right is None) or (got is not None and right is not None and abs(got - right) > allowed):
        verdict.wrong(f"AUC {got}, right is {right}")


def _near_ties(labels: list[int], scores: list[float]) -> float:
    """The share of pairs of both labels whose scores differ by rounding alone; their order depends on the batch."""
    ones, zeros = ([score for label, score in zip(labels, scores, strict=True) if label == each] for each in (1, 0))
    return sum(abs(one - zero) < 1e-12 for one in ones for zero in zeros) / (len(ones) * len(zeros))
