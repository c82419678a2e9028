"""A source as the settings describe it: its relations, columns and forms of values become those of the contract."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from sidkit.contract.column_mapping import check_sections, mapped_columns, refuse_unused
from sidkit.contract.folder_source import FolderRelations
from sidkit.contract.outputs import converted_batch
from sidkit.contract.relation import JoinedRelation, Relation
from sidkit.contract.report import ColumnUse
from sidkit.contract.schemas import EMBEDDINGS, ITEMS, OPTIONAL_TABLES, TABLES, Table
from sidkit.contract.source import Relations, Source
from sidkit.contract.table_plan import TablePlan, plan_table
from sidkit.core.config import SourceSettings
from sidkit.core.errors import ContractError, MissingTableError


class MappedSource(Source):
    """The tables of the contract, made from relations as ``[source]`` describes them."""

    def __init__(self, relations: Relations, settings: SourceSettings, url: str) -> None:
        self.url = url
        self.relations = relations
        self.settings = settings
        self._plans: dict[str, TablePlan] = {}
        check_sections(settings.columns, settings.tables)

    def has(self, table: str) -> bool:
        """See :meth:`Source.has`."""
        return all(self.relations.has(name) for name in self._names(table))

    def require(self, table: str) -> None:
        """Raise if a table is missing.

        Raises
        ------
        MissingTableError
            Names the table and what there is.
        """
        missing = [name for name in self._names(table) if not self.relations.has(name)]
        if missing:
            stated = "" if missing[0] == table else f" (source.tables.{table} in sidkit.toml)"
            hint = f'add the table, or name another one below [source.tables] in sidkit.toml ({table} = "...")'
            if table == EMBEDDINGS.name:
                hint += (
                    ", compute the vectors with `sidkit data embed`, or set modalities = [] below [source] in sidkit.toml "
                    "to do without"
                )
            raise MissingTableError(table, f"{self.relations.missing(missing[0])}{stated}; {hint}")

    def columns(self, table: str) -> dict[str, pa.DataType | None]:
        """See :meth:`Source.columns`."""
        return {name: output.kind for name, output in self._plan(table).outputs.items()}

    def batches(self, table: str, columns: Sequence[str], chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.batches`."""
        plan = self._plan(table)
        inputs = list(dict.fromkeys(source for name in columns for source in plan.outputs[name].inputs))
        for batch in plan.relation.batches(inputs, chunk_rows, plan.kinds):
            yield converted_batch(batch, plan.outputs, columns)

    @property
    def folder(self) -> Path | None:
        """The folder of the files; None for a database."""
        return self.relations.folder if isinstance(self.relations, FolderRelations) else None

    def rows(self, table: str) -> int | None:
        """Number of rows, if the source says so without being read."""
        names = self._names(table)
        if not isinstance(self.relations, FolderRelations) or len(names) > 1:
            return None
        return self.relations.rows(names[0])

    def fingerprint(self) -> str | None:
        """See :meth:`Source.fingerprint`."""
        marks = []
        for table in (*TABLES, *(each for each in OPTIONAL_TABLES if self.has(each.name))):
            for name in self._names(table.name):
                mark = self.relations.marks(name)
                if mark is None:
                    return None
                marks += mark
        return json.dumps(marks)

    def uses(self, table: str, stored: Sequence[str]) -> list[ColumnUse]:
        """See :meth:`Source.uses`."""
        return self._plan(table).uses(stored)

    def facts(self, table: str) -> dict[str, str]:
        """See :meth:`Source.facts`."""
        return self._plan(table).facts()

    def _names(self, table: str) -> tuple[str, ...]:
        stated = self.settings.tables.get(table, table)
        return (stated,) if isinstance(stated, str) else stated

    def _plan(self, table: str) -> TablePlan:
        if table not in self._plans:
            self._check_columns()
            self.require(table)
            known = next(each for each in (*TABLES, *OPTIONAL_TABLES) if each.name == table)
            self._plans[table] = plan_table(known, self._relation(known), self.settings)
        return self._plans[table]

    def _check_columns(self) -> None:
        if self._plans or not self.settings.columns:
            return
        given = {
            table.name: [column for name in self._names(table.name) for column in self.relations.columns(name)]
            for table in (*TABLES, *OPTIONAL_TABLES)
            if self.has(table.name)
        }
        refuse_unused(self.settings.columns, given)

    def _relation(self, table: Table) -> Relation:
        names = self._names(table.name)
        if len(names) == 1:
            return Relation(self.relations, names[0])
        if table.name not in {ITEMS.name, EMBEDDINGS.name}:
            raise ContractError(
                table.name,
                f"expected one file, folder or table in source.tables.{table.name}, got {', '.join(names)}: only tables of "
                "items are joined; move the files of one table into a folder and name the folder",
            )
        all_columns = [column for name in names for column in self.relations.columns(name)]
        key = mapped_columns(table, self.settings.columns, all_columns).get("item_id", "item_id")
        keys = {name: key if key in self.relations.columns(name) else "item_id" for name in names}
        return JoinedRelation(self.relations, names, keys)
