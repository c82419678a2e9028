"""``[features]`` of a new repository's ``sidkit.toml``, from the kinds inferred for the columns of its source."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sidkit.contract.attributes import ColumnKind, attribute_kinds
from sidkit.contract.schemas import INTERACTIONS, ITEMS, USERS
from sidkit.contract.source import Source

_HEAD = {
    "items": "Attributes of items that rankers read; remove a line to ignore the column.",
    "users": "Attributes of users. Values computed later, such as segments, leak unless `updated_at` dates them.",
    "context": "Off: remove the `#` of columns that are known when a request arrives; scoring then needs them.",
}


def features_section(source: Source) -> str:
    """The tables ``[features.items]``, ``[features.users]`` and ``[features.context]`` as TOML; empty without any column.

    Attributes of items and users are on. Context columns, and columns that are no feature, are comments with the reason.
    """
    sections = (("items", ITEMS, True), ("users", USERS, True), ("context", INTERACTIONS, False))
    texts = [_table(name, attribute_kinds(source, table), on=on) for name, table, on in sections]
    return "\n".join(text for text in texts if text)


def _table(name: str, kinds: Mapping[str, ColumnKind], *, on: bool) -> str:
    if not kinds:
        return ""
    lines = [_line(column, kind, on=on) for column, kind in kinds.items()]
    return "\n".join([f"# {_HEAD[name]}", f"[features.{name}]", *lines, ""])


def _line(column: str, kind: ColumnKind, *, on: bool) -> str:
    key = column if column.isascii() and column.isidentifier() else json.dumps(column)
    if kind.kind is None:
        return f"# {key}: {kind.reason}"
    setting = f'{"" if on else "# "}{key} = "{kind.kind}"'
    return f"{setting:<33} # {kind.reason}"
