"""The relation behind one table of the contract: one relation of the source, or several joined by ``item_id``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.contract.rows import ODD, can_be_carried
from sidkit.contract.source import Relations
from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection, literal
from sidkit.core.errors import ContractError, TableSchemaError
from sidkit.core.temporary import temporary_folder

_KEY = "item_id"


class Relation:
    """One relation of a source."""

    def __init__(self, relations: Relations, name: str) -> None:
        self.relations = relations
        self.name = name

    @property
    def names(self) -> tuple[str, ...]:
        """The relations that it reads."""
        return (self.name,)

    def columns(self) -> dict[str, pa.DataType | None]:
        """See :meth:`Relations.columns`."""
        return self.relations.columns(self.name)

    def untyped(self) -> frozenset[str]:
        """See :meth:`Relations.untyped`."""
        return self.relations.untyped(self.name)

    def batches(self, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Relations.batches`."""
        return self.relations.batches(self.name, columns, chunk_rows, kinds)

    def facts(self) -> dict[str, str]:
        """What a report says about it."""
        return {}


class JoinedRelation(Relation):
    """Relations joined by item: the rows of the first one, with the columns of the others.

    Parameters
    ----------
    relations : Relations
        The source.
    names : sequence of str
        At least two relations.
    keys : mapping
        Relation -> its column with the item's id.
    """

    def __init__(self, relations: Relations, names: Sequence[str], keys: Mapping[str, str]) -> None:
        super().__init__(relations, names[0])
        self._names = tuple(names)
        self._keys = dict(keys)
        self._unmatched: dict[str, int] = {}
        self._check_columns()

    @property
    def names(self) -> tuple[str, ...]:
        """The relations that it reads."""
        return self._names

    def _check_columns(self) -> None:
        seen: dict[str, str] = {}
        for name in self._names:
            columns = self.relations.columns(name)
            if self._keys[name] not in columns:
                raise TableSchemaError(
                    name,
                    f"expected column {self._keys[name]!r} to join {' and '.join(self._names)} by item, got "
                    f"{', '.join(columns)}; rename it, or name it in [source.columns]",
                )
            for column in columns:
                if column == self._keys[name] and name != self._names[0]:
                    continue
                other = seen.setdefault(column.lower(), name)
                if other != name:
                    raise TableSchemaError(
                        name,
                        f"expected columns of different names in the tables that [source.tables] joins, got {column!r} in "
                        f"{other} and {name}; rename or remove it in one of them",
                    )

    def columns(self) -> dict[str, pa.DataType | None]:
        """See :meth:`Relations.columns`."""
        columns: dict[str, pa.DataType | None] = {}
        for name in self._names:
            own = self.relations.columns(name)
            columns |= own if name == self.name else {each: own[each] for each in own if each != self._keys[name]}
        columns[self._keys[self.name]] = pa.string()
        return columns

    def untyped(self) -> frozenset[str]:
        """See :meth:`Relations.untyped`."""
        others = [self.relations.untyped(name) - {self._keys[name]} for name in self._names[1:]]
        return self.relations.untyped(self.name).union(*others)

    def facts(self) -> dict[str, str]:
        """How many rows of the joined tables belong to no item, after the rows were read."""
        return {f"rows of {name} without an item": f"{count:,}" for name, count in self._unmatched.items() if count}

    def batches(self, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Relations.batches`; the join is written to a temporary file.

        Raises
        ------
        ContractError
            When a table that is joined to the first has several rows of an item.
        """
        with temporary_folder() as work:
            path = self._joined(work, columns, chunk_rows, kinds)
            with pq.ParquetFile(path) as opened:
                for batch in opened.iter_batches(batch_size=chunk_rows, columns=list(columns)):
                    yield batch.select(list(columns))

    def _joined(self, work: Path, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]) -> Path:
        files = [self._written(work, name, columns, chunk_rows, kinds) for name in self._names]
        with connection(EngineSettings(), work / "spill") as opened:
            joined, chosen = f"read_parquet({files[0]}, union_by_name = true) AS t0", ["t0.*"]
            for place, name in enumerate(self._names[1:], start=1):
                rows = f"read_parquet({files[place]}, union_by_name = true)"
                self._check_keys(opened, name, rows, files[0])
                joined += f" LEFT JOIN {rows} AS t{place} ON t0._key = t{place}._key"
                chosen.append(f"t{place}.* EXCLUDE (_key, _row)")
            path = work / "joined.parquet"
            opened.execute("SET preserve_insertion_order = true")
            opened.execute(
                f"COPY (SELECT * EXCLUDE (_key, _row) FROM (SELECT {', '.join(chosen)} FROM {joined}) ORDER BY _row) "
                f"TO {literal(path)} (FORMAT parquet)"
            )
        return path

    def _check_keys(self, opened: duckdb.DuckDBPyConnection, name: str, rows: str, first: str) -> None:
        twice = opened.execute(
            f"SELECT _key, count(*) AS n FROM {rows} WHERE _key IS NOT NULL GROUP BY _key HAVING n > 1 "
            "ORDER BY n DESC, _key LIMIT 1"
        ).fetchone()
        if twice is not None:
            key = self._keys[name]
            raise ContractError(
                name,
                f"expected one row per item, since [source.tables] joins it to {self.name}, got {twice[1]:,} rows of "
                f'{twice[0]!r}. For example: df = df.drop_duplicates("{key}", keep="last")',
            )
        lost = opened.execute(
            f"SELECT count(*) FROM {rows} WHERE _key IS NULL OR _key NOT IN (SELECT _key FROM read_parquet({first}, "
            "union_by_name = true) WHERE _key IS NOT NULL)"
        ).fetchone()
        self._unmatched[name] = int(lost[0]) if lost else 0

    def _written(self, work: Path, name: str, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]) -> str:
        """The columns of one relation as Parquet files, with ``_key`` and ``_row``; returns an SQL list of the files."""
        key, own = self._keys[name], self.relations.columns(name)
        keep = [column for column in columns if column in own and (name == self.name or column != key)]
        row, files = 0, list[Path]()
        for batch in self.relations.batches(name, list(dict.fromkeys([key, *keep])), chunk_rows, {**kinds, key: "id"}):
            self._refuse_odd(batch, name)
            ids = batch.column(key).cast(pa.string())
            arrays = [ids if column == key else batch.column(column) for column in keep]
            arrays += [ids, pa.array(range(row, row + batch.num_rows), pa.int64())]
            row += batch.num_rows
            files.append(work / f"{len(files):06d}-{self._names.index(name)}.parquet")
            pq.write_table(pa.table(arrays, names=[*keep, "_key", "_row"]), files[-1])
        if not files:
            raise ContractError(name, "expected at least one row, got an empty table")
        return f"[{', '.join(map(literal, files))}]"

    def _refuse_odd(self, batch: pa.RecordBatch, name: str) -> None:
        for field in batch.schema:
            if (field.metadata or {}).get(ODD, b"[]") != b"[]" or not can_be_carried(field.type):
                raise TableSchemaError(
                    name,
                    f"expected values of one plain type in column {field.name!r}, since [source.tables] joins the table, got "
                    f"{field.type} among others; write the column with one type",
                )
