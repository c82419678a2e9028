"""The reference of the command line, from the Typer app."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from sidkit.cli.app import build_app
from site_text import cell, table

_HEAD = """\
# Command line

`--at` is the time of a read, `--as-of` the end of a build; both are ISO 8601 with a time zone. `--repo` defaults to the
environment variable `SIDKIT_REPO`, else to the working directory. Every command prints its options with `--help`.

| exit code | meaning |
| --- | --- |
| 0 | success |
| 1 | an error in the input, with one message on stderr; `doctor` found a problem |
| 2 | a wrong argument |
| 3 | `codebooks health`: the codebook is stale; `audit skew`, `monitor`: a bound is exceeded |
| 4 | `audit`: a mismatch |
| 130, 143 | stopped by Ctrl-C or SIGTERM; run the command again to resume |

This page is generated from the commands.

"""


def cli_page() -> str:
    """One section per command, in the order of the help."""
    shared = _parameters(get_command(build_app()))
    return _HEAD + shared + "\n" + "".join(_section(path, command) for path, command in commands())


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path of words and the Click command of every visible command and group."""
    yield from _below(("sidkit",), get_command(build_app()))


def _below(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, inner in command.commands.items():
        if inner.hidden:
            continue
        yield (*path, name), inner
        if hasattr(inner, "commands"):
            yield from _below((*path, name), inner)


def _section(path: tuple[str, ...], command: Any) -> str:
    name, level = " ".join(path), "#" * len(path)
    lines = [f"{level} `{name}` {{#{'-'.join(path)}}}", "", _text(command.help), ""]
    if not hasattr(command, "commands") or command.invoke_without_command:
        lines += [f"```text\n{_usage(name, command)}\n```", "", _parameters(command), ""]
    return "\n".join(lines) + "\n"


def _text(help_text: str | None) -> str:
    paragraphs = (help_text or "").replace("\b", "").split("\n\n")
    return "\n\n".join(cell(paragraph) for paragraph in paragraphs)


def _usage(name: str, command: Any) -> str:
    arguments = [
        each.name.upper() if each.required else f"[{each.name.upper()}]"
        for each in command.params
        if each.param_type_name == "argument"
    ]
    required = [
        f"{each.opts[0]} {each.name.rstrip('_').upper()}"
        for each in command.params
        if each.param_type_name == "option" and each.required
    ]
    return " ".join([name, *arguments, *required, "[OPTIONS]"])


def _parameters(command: Any) -> str:
    rows = []
    for each in command.params:
        if each.name == "help" or getattr(each, "hidden", False):
            continue
        is_option = each.param_type_name == "option"
        names = (
            ", ".join(f"`{name}`" for name in (*each.opts, *each.secondary_opts))
            if is_option
            else f"`{each.name.upper()}`"
        )
        rows.append((names, _default(each), cell(each.help or "")))
    return table(("option", "default", "meaning"), rows) if rows else ""


def _default(each: Any) -> str:
    if each.required:
        return "required"
    value = each.default
    if value in (None, False, (), []) or callable(value):
        return ""
    return "on" if value is True else f"`{value}`"
