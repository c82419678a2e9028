"""Rules for names that become part of a path, an SQL name or a Feast name.

A name has letters, digits, ``_``, ``-`` and ``.`` (ASCII); it starts with a letter, a digit or ``_``, does not end with a dot,
and is not a device name. It is thus a single path component on every system and cannot escape its folder. Codebook names are
more restricted: they are part of the names of a feature view, its services and its online table.
"""

from __future__ import annotations

import re

from sidkit.core.errors import ConfigError

LONGEST = 48
"""Maximum length of a preset or arm name; names of codebooks and rankers are derived from them."""
LONGEST_MADE = 128
"""Maximum length of a derived name, such as a ranker's or a feature service's."""
LONGEST_CODEBOOK = 63

RULE = "letters, digits, '_', '-' and '.', not starting with '-' or '.', not ending with '.', and not a device name such as CON"
CODEBOOK_RULE = (
    f"expected lower-case letters, digits and underscores, starting with a letter, at most {LONGEST_CODEBOOK} characters (it "
    "becomes part of a feature view's and a table's name), not ending in _user, _item, _content or _context "
    "and without _by_ (the names of parts of services)"
)

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_-])?")
_CODEBOOK = re.compile(rf"[a-z][a-z0-9_]{{0,{LONGEST_CODEBOOK - 1}}}")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)
_SERVICE_PARTS = ("_user", "_item", "_content", "_context")
_BY = "_by_"


def is_name(name: str, longest: int = LONGEST) -> bool:
    """Whether a text is a valid name."""
    return len(name) <= longest and bool(_NAME.fullmatch(name)) and not _DEVICE.fullmatch(name)


def check_name(kind: str, name: str, longest: int = LONGEST) -> str:
    """Return the name if it is valid.

    Parameters
    ----------
    kind : str
        Kind of object, for the message, such as ``preset`` or ``arm``.
    name : str
        Any text.
    longest : int
        Maximum number of characters.

    Raises
    ------
    ConfigError
        When it is not.
    """
    if not is_name(name, longest):
        raise ConfigError(
            f"{_shown(name)} cannot name {_a(kind)}: expected at most {longest} characters of {RULE}; rename it"
        )
    return name


def is_codebook_name(name: str) -> bool:
    """Whether a text is a valid codebook name."""
    fits = is_name(name, LONGEST_CODEBOOK) and bool(_CODEBOOK.fullmatch(name))
    return fits and not name.endswith(_SERVICE_PARTS) and _BY not in name


def check_codebook_name(name: str) -> str:
    """Return the name if it is a valid codebook name.

    Raises
    ------
    ConfigError
        When it is not.
    """
    if not is_codebook_name(name):
        raise ConfigError(f"{_shown(name)} cannot name a codebook: {CODEBOOK_RULE}; choose another name")
    return name


def codebook_stem(preset: str) -> str:
    """Prefix for the names of a preset's codebooks: the preset name, restricted to characters allowed there."""
    text = re.sub(r"[^a-z0-9_]", "_", preset.lower())
    return text if text[0].isalpha() else f"c{text}"


def neighbours_view(codebook: str) -> str:
    """Name of the feature view of a codebook's neighbour lists, and of its table."""
    return f"item_neighbours_{codebook}"


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
