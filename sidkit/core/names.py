"""The one rule for names that become part of a path, of an SQL name or of a Feast name.

Letters, digits, ``_``, ``-`` and ``.`` (ASCII), the first one a letter, a digit or ``_``, the last one no dot, and not the
name of a device. So a name is one component of a path on every system and never leaves its folder. A codebook's name is
narrower still: it is part of the names of a feature view, of its services and of its online table.
"""

from __future__ import annotations

import re

from sidkit.core.errors import ConfigError

LONGEST = 48
"""Characters of the name of a preset or of an arm: names of codebooks and rankers are made of them."""
LONGEST_MADE = 128
"""Characters of a name that is made of others: a ranker's, a feature service's."""
LONGEST_CODEBOOK = 63

RULE = "letters, digits, '_', '-' and '.', no '-' or '.' first, no '.' last, no name of a device such as CON"
CODEBOOK_RULE = (
    f"lower-case letters, digits and underscores, a letter first, at most {LONGEST_CODEBOOK} characters (it becomes part of a "
    "feature view's and a table's name), and none of _user, _item, _content at its end (they end its services' names)"
)

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?")
_CODEBOOK = re.compile(rf"[a-z][a-z0-9_]{{0,{LONGEST_CODEBOOK - 1}}}")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_SERVICE_PARTS = ("_user", "_item", "_content")


def is_name(name: str, longest: int = LONGEST) -> bool:
    """Whether a text keeps the rule."""
    return len(name) <= longest and bool(_NAME.fullmatch(name)) and not _DEVICE.fullmatch(name)


def check_name(kind: str, name: str, longest: int = LONGEST) -> str:
    """The name, when it keeps the rule.

    Parameters
    ----------
    kind : str
        What is named, for the message: ``preset``, ``arm`` and the like.
    name : str
        Any text.
    longest : int
        Most characters.

    Raises
    ------
    ConfigError
        When it does not.
    """
    if not is_name(name, longest):
        raise ConfigError(f"{_shown(name)} cannot name {_a(kind)}: at most {longest} characters of {RULE}; rename it")
    return name


def is_codebook_name(name: str) -> bool:
    """Whether a text can name a codebook."""
    return is_name(name, LONGEST_CODEBOOK) and bool(_CODEBOOK.fullmatch(name)) and not name.endswith(_SERVICE_PARTS)


def check_codebook_name(name: str) -> str:
    """The name, when it can be a codebook's.

    Raises
    ------
    ConfigError
        When it cannot.
    """
    if not is_codebook_name(name):
        raise ConfigError(f"{_shown(name)} cannot name a codebook: {CODEBOOK_RULE}; choose another name")
    return name


def codebook_stem(preset: str) -> str:
    """The beginning of the names of a preset's codebooks: its own name, in the characters that a codebook's may have."""
    text = re.sub(r"[^a-z0-9_]", "_", preset.lower())
    return text if text[0].isalpha() else f"c{text}"


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
