"""TOML text of settings: the standard library only reads TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def toml_value(value: Any) -> str:
    """A text, number, flag or list of them as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # a TOML basic string has JSON's escapes
    return repr(value)


def toml_key(name: str) -> str:
    """A key, quoted where TOML asks for it."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_value(name)


def toml_tables(path: str, values: Mapping[str, Any]) -> str:
    """A table and the tables in it, such as ``[source.columns]``, with a blank line before each."""
    own = [f"{toml_key(key)} = {toml_value(value)}" for key, value in values.items() if not isinstance(value, Mapping)]
    text = "\n".join([f"\n[{path}]", *own, ""]) if own else ""
    for key, value in values.items():
        if isinstance(value, Mapping):
            text += toml_tables(f"{path}.{toml_key(key)}", value)
    return text
