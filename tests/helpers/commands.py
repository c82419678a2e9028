"""The command line in this process, without the seconds that a process of its own spends on imports.

What a process of its own is about (which files it imports, what a signal leaves) is asked of ``sidkit`` of builders.py.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Answer:
    """How a command ended, in this process."""

    code: int
    out: str
    err: str


def ask(*arguments: object) -> Answer:
    """Run the command line in this process; whatever is no exit is raised, as a user would see a traceback."""
    from sidkit.cli import main

    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["sidkit", *map(str, arguments)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = before
    return Answer(code, out.getvalue(), err.getvalue())


def ask_well(*arguments: object, expect: int = 0) -> Answer:
    """The same, of a command that must succeed, or end with the code that is given."""
    answer = ask(*arguments)
    assert answer.code == expect, (arguments, answer)
    return answer


@contextlib.contextmanager
def time_zone(name: str) -> Iterator[None]:
    """Let this process live in a time zone."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TZ", name)
        time.tzset()
        yield
    time.tzset()
