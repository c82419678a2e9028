"""Reference of context columns: what the log says of the events behind a row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sidkit.contract.context import further_columns
from sidkit.core.arrays import Ints
from sidkit.core.clock import DAY_US
from sidkit.core.engine import literal, quoted
from sidkit.core.feature_settings import CONTEXT, AttributeKind
from sidkit.core.repo import Repo
from sidkit.tables import read_log


@dataclass(frozen=True)
class AnyOf:
    """Values of which a cell has one: several events have the keys of its row."""

    values: tuple[Any, ...]


class ContextReference:
    """Context columns of rows of a saved frame, from the log.

    A row of the log has the context of its event. A sampled negative has that of an event of its user at the same time.

    Parameters
    ----------
    repo : Repo
        Repository of the log.
    opened : duckdb.DuckDBPyConnection
        An open connection.
    """

    def __init__(self, repo: Repo, opened: duckdb.DuckDBPyConnection) -> None:
        self._kinds = further_columns(repo.settings.features.context)
        self._opened = opened
        self._parts = ", ".join(literal(part) for part in read_log(repo).parts)

    def cells(
        self, user_ids: npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_], at_us: Ints
    ) -> list[dict[str, Any]]:
        """Columns ``context__<name>`` of rows: a value, or :class:`AnyOf` several; empty without an event."""
        cells: list[dict[str, Any]] = [{} for _ in at_us]
        if not self._kinds:
            return cells
        columns = ", ".join(
            f"epoch_us(events.{quoted(name)})" if kind == "date" else f"events.{quoted(name)}"
            for name, kind in self._kinds.items()
        )
        keys = pa.table(
            {
                "place": np.arange(len(at_us)),
                "user_id": pa.array(user_ids, pa.string()),
                "candidate": pa.array(item_ids, pa.string()),
                "at_us": at_us,
            }
        )
        self._opened.register("context_keys", keys)
        try:
            rows = self._opened.execute(f"""
                SELECT place, item_id = candidate AS is_own, {columns}
                FROM context_keys INNER JOIN read_parquet([{self._parts}]) AS events
                    ON events.user_id = context_keys.user_id AND epoch_us(events.timestamp) = at_us
            """).fetchall()
        finally:
            self._opened.unregister("context_keys")
        own = {place for place, is_own, *_ in rows if is_own}
        found: list[dict[str, list[Any]]] = [{} for _ in at_us]
        for place, is_own, *values in rows:
            if is_own or place not in own:
                for (name, kind), value in zip(self._kinds.items(), values, strict=True):
                    found[place].setdefault(f"{CONTEXT}__{name}", []).append(_saved(kind, value, int(at_us[place])))
        return [
            {name: values[0] if len(values) == 1 else AnyOf(tuple(values)) for name, values in each.items()}
            for each in found
        ]


def _saved(kind: AttributeKind, value: Any, at_us: int) -> Any:
    """A value of the log (a date in microseconds UTC) as a saved frame has it."""
    if kind == "date":
        return math.nan if value is None else (at_us - value) / DAY_US
    if kind == "number":
        return float(value) if value is not None and math.isfinite(value) else math.nan
    if isinstance(value, bool):
        return "true" if value else "false"
    return value
