"""Lists on the command line: names separated by commas, and ids that may themselves hold a comma."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sidkit.core.errors import ConfigError

_SHOWN = 3


def comma_separated(text: str) -> list[str]:
    """The parts of a text between commas, without the spaces around them; empty ones are left out."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_ids(lists: Sequence[str] | None, exact: Sequence[str] | None = None) -> list[str]:
    """The ids that ``--items`` and ``--item`` name.

    Parameters
    ----------
    lists : sequence of str
        Ids separated by commas, or ``@FILE``: a UTF-8 file (with or without a byte order mark) with one id per line. Spaces
        around ids and empty lines do not count.
    exact : sequence of str
        Ids that are taken as they are.

    Returns
    -------
    list of str
        Those of the lists, then the exact ones; duplicates are kept.

    Raises
    ------
    ConfigError
        When no id is left, a file cannot be read, or an id is no UTF-8.
    """
    found: list[str] = []
    for text in lists or ():
        found += _lines(Path(text[1:])) if text.startswith("@") else comma_separated(text)
    found += [item for item in exact or () if item]
    if not found:
        raise ConfigError("no item ids came; write --items ID,ID or --items @FILE (one id per line) or --item ID")
    for item in found:
        refuse_broken_text(item)
    return found


def refuse_broken_text(identifier: str) -> None:
    """Refuse an id that the shell gave in another encoding than UTF-8.

    Raises
    ------
    ConfigError
        When it cannot be written as UTF-8.
    """
    try:
        identifier.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the id {identifier!r} is no UTF-8 text; write it in UTF-8") from error


def unknown_items(item_ids: Sequence[str], known: Iterable[bool]) -> str:
    """How many of some ids are unknown and the first few of them, for a message of one line; empty when all are known."""
    strangers = list(dict.fromkeys(item for item, there in zip(item_ids, known, strict=True) if not there))
    if not strangers:
        return ""
    shown = ", ".join(map(repr, strangers[:_SHOWN])) + (", ..." if len(strangers) > _SHOWN else "")
    return f"{len(strangers):,} unknown item{'' if len(strangers) == 1 else 's'} ({shown})"


def _lines(path: Path) -> list[str]:
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ConfigError(
            f"the ids in {str(path)!r} cannot be read ({why}); give a UTF-8 file, one id per line. An id that "
            "begins with @ is given with --item"
        ) from error
    return [line.strip() for line in text.split("\n") if line.strip()]
