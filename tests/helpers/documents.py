"""Code blocks of Markdown pages, and the commands in them: run in this process, or parsed only."""

from __future__ import annotations

import contextlib
import copy
import io
import re
import shlex
import subprocess
import tomllib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

from helpers.commands import ask
from helpers.places import ROOT

_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', flags=re.DOTALL | re.MULTILINE)
_SNIPPET = re.compile(r"^--8<--\n(\S+)\n--8<--\n", flags=re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A code block; ``title`` is the file that it shows, and ``place`` the page and line."""

    language: str
    title: str
    text: str
    place: str

    @property
    def commands(self) -> list[str]:
        """The command lines, with continued lines joined and comments removed."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in (re.sub(r"(^|\s)#.*", "", each).strip() for each in lines) if line]


def blocks_of(page: Path) -> list[Block]:
    """The code blocks of a page, in order, with the files that they include."""
    text = page.read_text()
    return [
        Block(
            found[1],
            found[2] or "",
            _SNIPPET.sub(lambda snippet: (ROOT / snippet[1]).read_text(), found[3]),
            f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, found.start()) + 2}",
        )
        for found in _BLOCK.finditer(text)
    ]


def blocks_below(page: Path, language: str, heading: str) -> list[str]:
    """The text of the blocks of a language in a section."""
    section = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [found[3] for found in _BLOCK.finditer(section) if found[1] == language]


def run_python(code: CodeType, namespace: dict[str, Any]) -> str:
    """Run a compiled block in a namespace and return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings(action="ignore"):
        exec(code, namespace)
    return printed.getvalue()


def words(line: str) -> list[str]:
    """The words that the shell makes of a command."""
    assert not set("|&;<>*") & set(line.split(" #", maxsplit=1)[0]), "a shell has to run it"
    done = subprocess.run(["bash", "-euc", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def in_process(program: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    """What a command of the clone's environment prints, run in this process; it must end with one of the codes."""
    if program == "sidkit":
        answer = ask(*arguments)
        assert answer.code in codes, (arguments, answer)
        return answer.out
    from click.testing import CliRunner
    from feast.cli.cli import cli

    assert program == "feast"
    with contextlib.chdir(Path.cwd()):  # Feast changes to the repository
        done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def check_command(line: str) -> None:
    """Check that a command line names existing commands, options, targets, scripts and extras; nothing is run."""
    command = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
    program, *arguments = command
    _CHECKS[Path(program).name](arguments)


@cache
def _sidkit() -> Any:
    """The command line with commands that do nothing."""
    from typer.main import get_command

    from sidkit.cli.app import build_app

    command = copy.copy(get_command(build_app()))
    _silence(command)
    return command


def _silence(command: Any) -> None:
    command.callback = lambda **_: None
    for inner in getattr(command, "commands", {}).values():
        _silence(inner)


def _check_sidkit(arguments: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        _sidkit()(arguments, standalone_mode=False)


def _check_feast(arguments: list[str]) -> None:
    from feast.cli.cli import cli

    group: Any = cli
    names = arguments[2:] if arguments[0] == "-c" else arguments
    for name in names[:2]:
        if hasattr(group, "commands"):
            assert name in group.commands, f"feast has no command {name}"
            group = group.commands[name]


def _check_make(arguments: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert arguments and set(arguments) <= set(targets), f"no target of the Makefile: {arguments}"


def _check_python(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        assert arguments[1] == "venv"
        return
    assert (ROOT / arguments[0]).is_file(), f"{arguments[0]} does not exist"
    source = "".join(path.read_text() for path in (ROOT / arguments[0]).parent.glob("*.py"))
    for option in (word for word in arguments if word.startswith("--")):
        assert f'"{option}"' in source, f"{arguments[0]} has no option {option}"


def _check_pip(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    requirement = re.fullmatch(r"(?:sidkit|\.)\[([\w,]+)\]", arguments[-1])
    assert arguments[0] == "install" and requirement and set(requirement[1].split(",")) <= extras.keys()


def _check_torchrun(arguments: list[str]) -> None:
    module = arguments.index("-m")
    assert arguments[module + 1] == "sidkit"
    _check_sidkit(arguments[module + 2 :])


_CHECKS: Mapping[str, Callable[[list[str]], None]] = {
    "sidkit": _check_sidkit,
    "feast": _check_feast,
    "make": _check_make,
    "python": _check_python,
    "python3.11": _check_python,
    "pip": _check_pip,
    "torchrun": _check_torchrun,
}
