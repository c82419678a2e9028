"""Lists on the command line: comma-separated names, and ids that may themselves contain a comma."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sidkit.core.errors import ConfigError

_SHOWN = 3


def comma_separated(text: str) -> list[str]:
    """Split a text at commas, strip the parts and drop empty ones."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_ids(lists: Sequence[str] | None, exact: Sequence[str] | None = None) -> list[str]:
    """Read the ids given with ``--items`` and ``--item``.

    Parameters
    ----------
    lists : sequence of str
        Ids separated by commas, or ``@FILE``: a UTF-8 file (with or without a byte order mark) with one id per line. Spaces
        around ids and empty lines are ignored.
    exact : sequence of str
        Ids that are used verbatim.

    Returns
    -------
    list of str
        Ids from ``lists``, then from ``exact``; duplicates are preserved.

    Raises
    ------
    ConfigError
        When there are no ids, a file cannot be read, or an id is not valid UTF-8.
    """
    ids: list[str] = []
    for text in lists or ():
        ids += _lines(Path(text[1:])) if text.startswith("@") else comma_separated(text)
    ids += [item for item in exact or () if item]
    if not ids:
        raise ConfigError(
            "expected item ids, got none; write --items ID,ID or --items @FILE (one id per line) or --item ID"
        )
    for item in ids:
        refuse_broken_text(item)
    return ids


def refuse_broken_text(identifier: str) -> None:
    """Reject an id that the shell passed in an encoding other than UTF-8.

    Raises
    ------
    ConfigError
        When it cannot be encoded as UTF-8.
    """
    try:
        identifier.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"expected ids in UTF-8, got {identifier!r}; convert it to UTF-8") from error


def unknown_items(item_ids: Sequence[str], known: Iterable[bool]) -> str:
    """One-line summary of unknown ids: their number and the first few; empty if all are known."""
    unknown = list(dict.fromkeys(item for item, is_known in zip(item_ids, known, strict=True) if not is_known))
    if not unknown:
        return ""
    shown = ", ".join(map(repr, unknown[:_SHOWN])) + (", ..." if len(unknown) > _SHOWN else "")
    return f"{len(unknown):,} unknown item{'' if len(unknown) == 1 else 's'} ({shown})"


def _lines(path: Path) -> list[str]:
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(
            f"the ids in {str(path)!r} cannot be read ({why}); use a UTF-8 file with one id per line. Pass an id that "
            "begins with @ with --item"
        ) from error
    return [line.strip() for line in text.split("\n") if line.strip()]
