"""What became of one command and of one case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

RIGHT, CLEAR, TRACEBACK, WRONG = "right", "clear error", "traceback", "wrong"
VERDICTS = (RIGHT, CLEAR, TRACEBACK, WRONG)
_WORST = {verdict: place for place, verdict in enumerate(VERDICTS)}

_LIBRARY = (
    r"(?:Key|Value|Type|Index|Attribute|Name|Assertion|Runtime|OS|IO|NotImplemented|Unicode\w*|Recursion|Overflow|Memory"
    r"|FileNotFound|Permission|IsADirectory|NotADirectory)Error"
)
_DATABASE = (
    r"(?:Binder|Catalog|Conversion|Invalid\w*|IO|Parser|Internal|Constraint|OutOfRange|Fatal|HTTP) ?(?:Exception|Error)"
)
_CLASS = re.compile(
    rf"^(?:sidkit: )?(?:[\w./~-]+: )?\(?(?:{_LIBRARY}|{_DATABASE}|(?:duckdb|pyarrow|sqlalchemy|sqlite3)(?:\.\w+)+|Arrow\w+)\b"
)
_MOST_LINES, _MOST_CHARACTERS = 24, 6_000


@dataclass(frozen=True)
class Ran:
    """One command: how it ended and what it printed."""

    arguments: tuple[str, ...]
    exit: int | None
    """None when an exception that is no exit left the command, or the process was killed."""
    out: str
    err: str
    raised: str = ""
    """The traceback of that exception, or how the process ended."""

    @property
    def ok(self) -> bool:
        return self.exit == 0

    def shown(self) -> str:
        """The last lines of what it printed on stderr."""
        return self.err.strip()[-400:]


@dataclass
class Verdict:
    """The outcome of one case; the worst of what was found counts."""

    verdict: str = RIGHT
    why: list[str] = field(default_factory=list)
    did: str = ""
    """What was tried, in words: enough to find the cause without running it again."""

    def add(self, verdict: str, why: str = "") -> None:
        """Note one finding."""
        if _WORST[verdict] > _WORST[self.verdict]:
            self.verdict = verdict
        if why:
            self.why.append(f"{verdict}: {why}")

    def wrong(self, why: str) -> None:
        self.add(WRONG, why)

    @property
    def bad(self) -> bool:
        return self.verdict in {TRACEBACK, WRONG}


def brief(text: str) -> str:
    """The end of a traceback: its exception, and the last of our own lines that it passed."""
    frames = re.findall(r'File "[^"]*?/((?:sidkit|semantic_ids|ranking)/[^"]+)", line (\d+), in (\w+)', text)
    where = ":".join(frames[-1][:2]) + f" {frames[-1][2]}" if frames else "outside of our code"
    return f"{where}: {text.strip().splitlines()[-1][:600] if text.strip() else 'no message'}"


def error_of(ran: Ran, names: Sequence[str] = (), codes: Sequence[int] = (1, 2, 3)) -> tuple[str, str]:
    """How a command ended: ``(verdict, why)``.

    Parameters
    ----------
    ran : Ran
        The command.
    names : sequence of str
        An error has to contain at least one of these, whatever their case; none asks nothing.
    codes : sequence of int
        The exit codes of a clear error.
    """
    if ran.exit is None:
        return TRACEBACK, brief(ran.raised)
    for marker in ("Traceback (most recent call last)", "Exception ignored in"):
        if marker in ran.err or marker in ran.out:
            return TRACEBACK, brief(ran.err + ran.out)
    if ran.exit == 0:
        return RIGHT, ""
    if ran.exit not in codes:
        return WRONG, f"exit code {ran.exit}: {ran.shown()}"
    said = ran.err.strip() or ran.out.strip()
    if not said:
        return TRACEBACK, f"exit code {ran.exit} and no message"
    if len(said.splitlines()) > _MOST_LINES or len(said) > _MOST_CHARACTERS:
        return TRACEBACK, f"unclear error, {len(said.splitlines())} lines, {len(said):,} characters: {said[:300]}"
    if _CLASS.search(said):
        return TRACEBACK, f"unclear error, the text of a library: {said[:400]}"
    if names and not any(name.lower() in said.lower() for name in names):
        return TRACEBACK, f"unclear error, it names none of {', '.join(names)}: {said[:400]}"
    return CLEAR, said[:300]
