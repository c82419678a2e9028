"""Reference attributes of items and users: plain Python over the log's snapshots, independent of the tables' SQL."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidkit.core.arrays import Ints
from sidkit.core.clock import to_us
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, USER_ATTRIBUTES, AttributeKind
from sidkit.core.repo import Repo
from sidkit.tables import read_build, read_log

_BEGINNING_US = 86_400_000_000
_SPACES = "".join(char for char in map(chr, range(0x3001)) if unicodedata.category(char) == "Zs")
"""Spaces of every width, which the tables' SQL trims."""
_DATES_US = (-62_135_510_400_000_000, 253_402_214_400_000_000)
"""From 0001-01-02 to 9999-12-31; other dates are null."""
_YES, _NO = frozenset({"true", "t", "yes", "y", "1"}), frozenset({"false", "f", "no", "n", "0"})


class AttributeReference:
    """Attributes of keys at given times, from the snapshots of the log and the kinds in the settings."""

    def __init__(self, repo: Repo) -> None:
        log, features, build = read_log(repo), repo.settings.features, read_build(repo)
        self._delay_us, self._as_of_us = repo.settings.time.delay_us, int(build["as_of_us"])
        self._tables, self._shapes = repo.tables, build.get("shapes", {})
        self._views: dict[str, tuple[str, Path, Mapping[str, AttributeKind]]] = {}
        if features.items:
            self._views[ITEM_ATTRIBUTES] = ("item_id", log.items, features.items)
        if features.users and log.users is not None:
            self._views[USER_ATTRIBUTES] = ("user_id", log.users, features.users)

    def cells(
        self, user_ids: Sequence[str] | npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_], at_us: Ints
    ) -> list[dict[str, Any]]:
        """Compute the attributes of rows by Feast's full names, one mapping per row; None without a version."""
        cells: list[dict[str, Any]] = [{} for _ in range(len(at_us))]
        for view, (key, _, columns) in self._views.items():
            ids = list(user_ids if key == "user_id" else item_ids)
            versions = self.versions(view, ids)
            for row, (name, us) in enumerate(zip(ids, np.minimum(at_us, self._as_of_us), strict=True)):
                served = [values for since_us, values in versions.get(name, []) if since_us <= us]
                values = served[-1] if served else dict.fromkeys(columns)
                cells[row].update({f"{view}__{column}": values[column] for column in columns})
        return cells

    def timeline(self, view: str, column: str, key: str) -> list[tuple[int, Any]]:
        """Pairs (first time served in microseconds UTC, value) of a key, oldest first."""
        return [(since_us, values[column]) for since_us, values in self.versions(view, [key]).get(key, [])]

    def corrected(self) -> dict[str, dict[str, int]]:
        """Per view, the keys whose attributes were corrected in place, with the time of the correction.

        The log has the corrected values only, so those that serving used before cannot be recomputed.
        """
        result = {}
        for view, (key, path, _) in self._views.items():
            if path.stem.endswith("-00000"):
                continue
            table = pq.read_table(self._tables / f"{view}.parquet", columns=[key, "event_timestamp"])
            times_us = table["event_timestamp"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
            keys = table[key].to_pylist()
            known = {name: {us for us, _ in versions} for name, versions in self.versions(view, keys).items()}
            late: dict[str, int] = {}
            for name, us in zip(keys, times_us, strict=True):
                if us not in known.get(name, set()):
                    late[name] = max(us, late.get(name, us))
            result[view] = late
        return result

    def versions(self, view: str, keys: Sequence[str]) -> dict[str, list[tuple[int, dict[str, Any]]]]:
        """Versions of some keys: pairs (first time served in microseconds UTC, values by column), oldest first."""
        key, path, columns = self._views[view]
        shapes = self._shapes.get(view, {})
        schema = pq.read_schema(path)
        times = [name for name in ("updated_at", "created_at") if name in schema.names]
        wanted = pa.array(sorted(set(keys)), pa.string())
        needed = list(dict.fromkeys([key, *times, *(name for name in columns if name in schema.names)]))
        table = pq.read_table(path, columns=needed, filters=pc.field(key).isin(wanted))
        stamps = [table[name].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist() for name in times]
        for name in {name for name, kind in columns.items() if kind == "date"} & set(table.column_names):
            if pa.types.is_timestamp(table.schema.field(name).type):  # Python has no dates after 9999
                us = table[name].cast(pa.timestamp("us", tz="UTC"), safe=False).cast(pa.int64())
                table = table.set_column(table.column_names.index(name), name, us)
        versions: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for at, row in enumerate(table.to_pylist()):
            known = [stamp[at] for stamp in stamps if stamp[at] is not None]
            since_us = known[0] + self._delay_us if known else _BEGINNING_US
            values = {
                name: _READERS[kind](row.get(name), shapes.get(name, {})) if row.get(name) is not None else None
                for name, kind in columns.items()
            }
            versions.setdefault(row[key], []).append((since_us, values))
        return {name: sorted(each, key=lambda version: version[0]) for name, each in versions.items()}


def _category(value: Any, shape: Mapping[str, Any]) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | Decimal):
        number = float(value)
        if math.isnan(number):
            return None
        return str(int(number)) if number.is_integer() and abs(number) < 9e15 else str(value)
    if isinstance(value, datetime):
        return value.isoformat(" ").replace("+00:00", "+00")
    return str(value) or None


def _categories(value: Any, shape: Mapping[str, Any]) -> list[str] | None:
    if isinstance(value, str):
        if value.startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                return None
        else:
            value = value.split(shape["separator"]) if shape.get("separator") else [value]
    texts = [
        ("true" if part else "false") if isinstance(part, bool) else str(part) for part in value if part is not None
    ]
    trimmed = (text.strip(_SPACES) for text in texts)
    return [text for text in trimmed if text] or None


def _number(value: Any, shape: Mapping[str, Any]) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _flag(value: Any, shape: Mapping[str, Any]) -> bool | None:
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in _YES else False if word in _NO else None
    return bool(value) if value in {0, 1} else None


def _date(value: Any, shape: Mapping[str, Any]) -> int | None:
    if isinstance(value, int):
        return value if _DATES_US[0] <= value < _DATES_US[1] else None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day) if isinstance(value, date) else None
    if value is None:
        return None
    return _date(to_us(value if value.tzinfo else value.replace(tzinfo=UTC)), shape)


def _vector(value: Any, shape: Mapping[str, Any]) -> list[float] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    usable = [part for part in value if part is not None and math.isfinite(part)]
    return [float(np.float32(part)) for part in usable] if len(usable) == len(value) == shape.get("width") else None


_READERS: dict[AttributeKind, Callable[[Any, Mapping[str, Any]], Any]] = {
    "category": _category,
    "categories": _categories,
    "number": _number,
    "flag": _flag,
    "date": _date,
    "vector": _vector,
}
