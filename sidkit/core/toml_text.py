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


def with_value(text: str, table: str, key: str, value: Any) -> str:
    """The text of a TOML file with one value of a top-level table replaced, or added; comments stay."""
    line = f"{toml_key(key)} = {toml_value(value)}"
    start = re.search(rf"(?m)^\[{re.escape(toml_key(table))}\][^\n]*\n?", text)
    if start is None:
        return f"{text.rstrip()}\n\n[{toml_key(table)}]\n{line}\n"
    following = re.compile(r"(?m)^\[").search(text, start.end())
    end = following.start() if following else len(text)
    body = text[start.end() : end]
    known = re.compile(
        rf"(?m)^{re.escape(toml_key(key))}\s*=\s*(\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|[^#\n]*?)(?=\s*(?:#|$))"
    )
    body = known.sub(lambda _: line, body, count=1) if known.search(body) else f"{line}\n{body}"
    head = text[: start.end()] if text[: start.end()].endswith("\n") else f"{text[: start.end()]}\n"
    return head + body + text[end:]
