"""Any rows at all: every one is either valid or rejected for a reason, as a second formulation of the contract says."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from helpers.builders import DAY, START
from helpers.dirty_builders import END, FIRST, INF, NAN, NOW, Rows, check, event, item, vector


def from_(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


TIMES = from_(START, START + 1, START + DAY, START, START + 1, None, 0, -1, FIRST, NOW, END - 1, END, -(10**17))
ITEM_IDS = from_("i0", "i1", "i2", "i3", "i9", None, "")
EVENTS = st.fixed_dictionaries(
    {
        "user_id": from_("u0", "u1", "u0", "u1", None, ""), "item_id": ITEM_IDS, "timestamp": TIMES,
        "label": from_(0.0, 1.0, 0.0, 1.0, None, NAN, 2.0, 0.5), "position": from_(None, NAN, 0.0, 7.0, -3.0, INF, 3e9),
        "converted": from_(None, NAN, 0.0, 1.0, 3.0), "rating": from_(None, NAN, 0.5, INF), "request_id": from_(None, "r"),
    }
)  # fmt: skip
ITEMS = st.fixed_dictionaries(
    {"item_id": ITEM_IDS, "created_at": TIMES, "removed_at": TIMES, "price": from_(None, NAN, 1.5, INF)}
)
VECTORS = st.fixed_dictionaries(
    {"item_id": ITEM_IDS, "text": from_(None, [], [1.0, 2.0], [3.0, 4.0], [1.0, 2.0, 3.0], [NAN, 1.0], [None, 1.0])}
)


def versioned(rows: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Rows]:
    """Lists of rows of which all or none have ``updated_at``."""
    with_versions = st.tuples(rows, TIMES).map(lambda pair: {**pair[0], "updated_at": pair[1]})
    return st.one_of(st.lists(rows, max_size=8), st.lists(with_versions, max_size=8))


def finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def in_time(*times: int | None) -> bool:
    return all(time is None or 0 <= time < END for time in times)


def keeps_the_contract(name: str, row: dict[str, Any]) -> bool:
    """What one row alone can show, written down once more."""
    if not row["item_id"]:
        return False
    if name == "interactions":
        flags = row["label"] in (0, 1) and row["converted"] in (None, 0, 1)
        position = row["position"] is None or (finite(row["position"]) and abs(row["position"]) < 2**31)
        timed = row["timestamp"] is not None and FIRST <= row["timestamp"] <= NOW
        return bool(row["user_id"]) and flags and position and finite(row["rating"]) and timed
    if name == "items":
        created, later = row["created_at"], [row.get("updated_at"), row["removed_at"]]
        ordered = created is not None and all(time is None or created <= time for time in later)
        come = ordered and created <= NOW and (row.get("updated_at") or 0) <= NOW
        return come and in_time(created, *later) and finite(row["price"])
    elements = row["text"] if row["text"] is not None else [0.0]
    come = in_time(row.get("updated_at")) and (row.get("updated_at") or 0) <= NOW
    return bool(elements) and all(x is not None and math.isfinite(x) for x in elements) and come


def key_of(name: str, row: dict[str, Any]) -> object:
    if name == "interactions":
        return shown({key: row[key] for key in ("user_id", "item_id", "timestamp", "request_id", "position")})
    if name == "items":
        return row["item_id"], ("updated_at" in row) and (row["updated_at"] or row["created_at"])
    return row["item_id"], row.get("updated_at")


def shown(row: dict[str, Any]) -> tuple[Any, ...]:
    """A row to compare: NaN is a missing number, the reason and columns without values are left out."""
    nulls = {key: None if value != value else value for key, value in row.items()}
    given = {key: value for key, value in nulls.items() if value is not None and key != "reason"}
    return tuple(sorted((key, str(value).replace("nan", "None")) for key, value in given.items()))


def kept_of(name: str, came: Rows, rejects: Rows) -> Rows:
    """What is valid when these rows were rejected: interactions of one key are one event."""
    gone = Counter(map(shown, rejects))
    left = []
    for row in came[::-1]:
        if gone[shown(row)]:
            gone[shown(row)] -= 1
        else:
            left.insert(0, row)
    if name != "interactions":
        return left
    events: dict[object, dict[str, Any]] = {}
    for row in left:
        one = events.setdefault(key_of(name, row), dict(row))
        for column in ("label", "converted", "rating"):
            if row[column] is not None and row[column] == row[column]:
                known = one[column] is not None and one[column] == one[column]
                one[column] = max(one[column], row[column]) if known and column != "rating" else row[column]
    return list(events.values())


def as_number(row: dict[str, Any]) -> dict[str, Any]:
    floats = ("label", "converted", "position")
    return {key: float(v) if key in floats and v is not None else v for key, v in row.items()}


@hypothesis_settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    dirty_events=st.lists(EVENTS, max_size=10),
    dirty_items=versioned(ITEMS),
    dirty_vectors=versioned(VECTORS),
    keep=st.booleans(),
    chunk_rows=from_(1, 3, 1000),
)
def test_every_row_is_either_valid_or_rejected_for_a_reason(
    dirty_events: Rows, dirty_items: Rows, dirty_vectors: Rows, keep: bool, chunk_rows: int
) -> None:
    came = {
        "interactions": [
            {**dict.fromkeys(("position", "converted", "rating", "request_id")), **event(n)} for n in (0, 1)
        ],
        "items": [{**dict.fromkeys(("removed_at", "price", *(dirty_items or [{}])[0])), **item()}],
        "item_embeddings": [{**dict.fromkeys((dirty_vectors or [{}])[0]), **vector()}],
    }
    for name, dirty in (("interactions", dirty_events), ("items", dirty_items), ("item_embeddings", dirty_vectors)):
        came[name] += dirty
    checked = check(came, chunk_rows, unknown_items="keep" if keep else "reject")
    catalogue = {row["item_id"] for row in checked.valid["items"]}
    for name, report in checked.reports.items():
        valid, rejects = (
            [as_number(row) for row in checked.valid[name]],
            [as_number(row) for row in checked.rejects[name]],
        )
        assert (report.rows, report.rejected) == (len(came[name]), len(rejects))
        assert report.merged == len(came[name]) - len(rejects) - len(valid)
        assert not Counter(map(shown, rejects)) - Counter(map(shown, came[name]))
        assert Counter(map(shown, valid)) == Counter(map(shown, kept_of(name, came[name], rejects)))
        assert Counter(row["reason"] for row in rejects) == Counter(report.reasons)
        assert None not in report.reasons

        assert all(keeps_the_contract(name, row) for row in valid)
        keys = [key_of(name, row) for row in valid]
        assert len(set(keys)) == len(keys)
        may_be_unknown = name == "items" or (keep and name == "interactions")
        assert may_be_unknown or {row["item_id"] for row in valid} <= catalogue
        widths = {len(row["text"]) for row in valid if row.get("text") is not None}
        assert len(widths) <= 1
        for row in rejects:
            unknown = not may_be_unknown and row["item_id"] not in catalogue
            odd_width = row.get("text") is not None and len(row["text"]) not in widths
            assert not keeps_the_contract(name, row) or unknown or odd_width or key_of(name, row) in keys
