"""How one table of a source becomes a table of the contract: which column is which, and how each is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from sidkit.contract import times, vector_columns
from sidkit.contract.column_mapping import mapped_columns
from sidkit.contract.label_rule import LabelRule, label_output
from sidkit.contract.outputs import Converted, Output, unchanged
from sidkit.contract.relation import Relation
from sidkit.contract.report import ColumnUse
from sidkit.contract.rows import MOMENT
from sidkit.contract.schemas import EMBEDDINGS, INTERACTIONS, ITEMS, Table
from sidkit.contract.text_types import TextFacts, attribute_output, numeric_output, survey, text_output
from sidkit.core.config import SourceSettings
from sidkit.core.errors import TableSchemaError

_SURVEY_ROWS = 100_000
_UNDATED = "no such column; an item is created at its first interaction"
_NUMERIC = frozenset({"flag", "integer", "number"})


@dataclass
class TablePlan:
    """The outputs of a table by name, and why columns of the source are not among them."""

    table: Table
    relation: Relation
    outputs: dict[str, Output] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    """Column of the source -> reason."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Column of the source -> the contract's kind."""

    def uses(self, stored: Sequence[str]) -> list[ColumnUse]:
        """Every column of the source's table; ``stored`` are the outputs that the log has."""
        made: dict[str, list[tuple[str, Output]]] = {}
        for name, output in self.outputs.items():
            for source in () if output.constant else output.inputs:
                made.setdefault(source, []).append((name, output))
        return [self._use(source, made.get(source, []), stored) for source in self.relation.columns()]

    def _use(self, source: str, made: Sequence[tuple[str, Output]], stored: Sequence[str]) -> ColumnUse:
        present = [(name, output) for name, output in made if name in stored]
        if present:
            known = any(self._is_known(name) for name, _ in present)
            texts = [
                ", ".join(filter(None, (f"as {name}" if name != source else "", output.note)))
                for name, output in present
            ]
            return {"column": source, "use": "used" if known else "kept", "reason": "; ".join(filter(None, texts))}
        if source in self.ignored:
            return {"column": source, "use": "ignored", "reason": self.ignored[source]}
        return {"column": source, "use": "ignored", "reason": self._why_ignored(made)}

    def _is_known(self, name: str) -> bool:
        return self.table.name == EMBEDDINGS.name or self.table.column(name) is not None

    def _why_ignored(self, made: Sequence[tuple[str, Output]]) -> str:
        if self.table.name == EMBEDDINGS.name:
            return "not in source.modalities"
        if self.table.name == INTERACTIONS.name:
            return "not a column of the contract"
        kind = next((output.kind for _, output in made), None)
        return f"values of type {kind} cannot be stored"

    def facts(self) -> dict[str, str]:
        """How columns are read that the source has in another form."""
        noted = {name: output for name, output in self.outputs.items() if output.note}
        shown = {
            name: output.note if output.constant or output.inputs[0] == name else f"{output.inputs[0]}, {output.note}"
            for name, output in noted.items()
        }
        return {**shown, **self.relation.facts()}


def plan_table(table: Table, relation: Relation, settings: SourceSettings) -> TablePlan:
    """Decide how each column of a table is read; reads the values where that depends on them.

    Raises
    ------
    TableSchemaError
        When the settings name a column that the table lacks, or times have several units.
    ConfigError
        When the rule for labels cannot be parsed.
    """
    return _Planner(TablePlan(table, relation), settings).plan()


class _Planner:
    def __init__(self, plan: TablePlan, settings: SourceSettings) -> None:
        self.done = plan
        self.table, self.relation, self.settings = plan.table, plan.relation, settings
        self.given = self.relation.columns()
        self.untyped = self.relation.untyped()
        self.packed: dict[str, Output] = {}
        self.in_group: dict[str, str] = {}
        self.mapping: dict[str, str] = {}
        self.texts: dict[str, TextFacts] = {}

    def plan(self) -> TablePlan:
        if self.table.name == EMBEDDINGS.name:
            self._pack()
        self.mapping = mapped_columns(self.table, self.settings.columns, [*self.given, *self.packed])
        rule = LabelRule.of(self.settings.label) if self.table.name == INTERACTIONS.name else None
        labelled_by = self._column_of(rule) if rule is not None else None
        named = self._named(labelled_by if rule is not None and rule.column else None, rule is not None)
        self.done.kinds = {source: self._kind(name) or "" for name, source in named.items()}
        self.done.kinds = {source: kind for source, kind in self.done.kinds.items() if kind}
        self._survey(named)
        for name, source in named.items():
            self.done.outputs[name] = self.packed[source] if source in self.packed else self._output(name, source)
        if rule is not None and labelled_by is not None:
            self.done.outputs["label"] = label_output(rule, self.table.name, labelled_by)
        if self._needs_created_at():
            first = next(iter(self.given))
            self.done.outputs["created_at"] = Output(
                (first,),
                MOMENT,
                lambda arrays: Converted(pa.nulls(len(arrays[first]), MOMENT)),
                _UNDATED,
                constant=True,
            )
        return self.done

    def _named(self, labelled_by: str | None, has_rule: bool) -> dict[str, str]:
        """Output -> column of the source, in the order of the source."""
        by_source: dict[str, list[str]] = {}
        for name, source in self.mapping.items():
            by_source.setdefault(source, []).append(name)
        named: dict[str, str] = {}
        for column in self.given:
            group = self.in_group.get(column)
            source = column if group is None else group
            if source in by_source:
                named |= dict.fromkeys(by_source[source], source)
            elif source in self.mapping:
                self.done.ignored[column] = f"[source.columns] takes {source} from {self.mapping[source]}"
            elif source == "label" and has_rule:
                self.done.ignored[column] = "[source.label] gives label"
            elif source == labelled_by and self.table.column(source) is None:
                continue
            else:
                named[source] = source
        return named

    def _kind(self, name: str) -> str | None:
        column = self.table.column(name)
        if column is not None:
            return column.kind
        return "vector" if self.table.name == EMBEDDINGS.name else None

    def _output(self, name: str, source: str) -> Output:
        kind, given = self._kind(name), self.given[source]
        if kind == "moment":
            return self._moment(name, source)
        if source in self.untyped:
            if kind in _NUMERIC:
                return numeric_output(source, name, self.texts[source])
            return attribute_output(source, self.texts[source]) if kind is None else text_output(source)
        if kind == "vector":
            return self._vector(name, source)
        return unchanged(source, given)

    def _moment(self, name: str, source: str) -> Output:
        given, stated = self.given[source], self.settings.times
        plain = text_output(source) if source in self.untyped else unchanged(source, given)
        if given is not None and not (times.is_number(given) or times.has_no_zone(given)):
            return plain
        numbers = given is not None and times.is_number(given)
        if not numbers and (given is None or times.is_text(given) or pa.types.is_dictionary(given)):
            numbers = times.reads_numbers(self._head(source))
        if numbers:
            unit = stated.unit or self._unit(name, source)
            return plain if unit is None else times.number_output(source, name, unit)
        return plain if stated.assume_timezone is None else times.local_output(source, name, stated.assume_timezone)

    def _unit(self, name: str, source: str) -> str | None:
        facts = times.NumberFacts()
        for batch in self.relation.batches([source], _SURVEY_ROWS, self.done.kinds):
            facts.add(times.plain(batch.column(source)))
        return facts.unit(self.table.name, name)

    def _vector(self, name: str, source: str) -> Output:
        given = self.given[source]
        plain = unchanged(source, given)
        if given is not None and not vector_columns.is_bytes(given):
            return plain
        head = self._head(source)
        if head is None or not vector_columns.is_bytes(head.type):
            return plain
        form = vector_columns.bytes_format(head, self.settings.vectors.dtype)
        return plain if form is None else vector_columns.bytes_output(source, name, form)

    def _head(self, source: str) -> pa.Array | None:
        return times.first_values(self.relation.batches([source], 1000, {**self.done.kinds, source: "vector"}), source)

    def _pack(self) -> None:
        free = [name for name in self.given if self.table.column(name) is None]
        for prefix, group in vector_columns.numbered_groups(free).items():
            known = [kind for name in group if (kind := self.given[name]) is not None and name not in self.untyped]
            if any(not times.is_number(kind) for kind in known):
                continue
            gap = vector_columns.gap_in(group)
            if not gap and prefix in self.given:
                gap = f"{prefix} is a column itself"
            if not gap and len(known) < len(group) and not self._all_numbers(group):
                continue
            if gap:
                self.done.ignored |= dict.fromkeys(group, f"{gap}, so they are not read as one vector")
                continue
            self.packed[prefix] = vector_columns.packed_output(group, prefix)
            self.in_group |= dict.fromkeys(group, prefix)

    def _all_numbers(self, group: Sequence[str]) -> bool:
        head = next(iter(self.relation.batches(group, 100, dict.fromkeys(group, "number"))), None)
        return head is not None and all(vector_columns.holds_numbers(head.column(name)) for name in group)

    def _column_of(self, rule: LabelRule) -> str:
        if not rule.column:
            return next(iter(self.given))
        source = rule.column if rule.column in self.given else self.mapping.get(rule.column)
        if source is None:
            raise TableSchemaError(
                self.table.name,
                f"expected column {rule.column!r}, which [source.label] reads, got {', '.join(self.given)}; correct the name "
                "in sidkit.toml",
            )
        return source

    def _survey(self, named: Mapping[str, str]) -> None:
        if self.table.name == EMBEDDINGS.name:
            return
        wanted = [
            source
            for name, source in named.items()
            if source in self.untyped and (self._kind(name) is None or self._kind(name) in _NUMERIC)
        ]
        if wanted:
            wanted = list(dict.fromkeys(wanted))
            self.texts = survey(self.relation.batches(wanted, _SURVEY_ROWS, self.done.kinds), wanted)

    def _needs_created_at(self) -> bool:
        dated_by_log = self.settings.missing_created_at == "first_interaction"
        return self.table.name == ITEMS.name and dated_by_log and "created_at" not in self.done.outputs
