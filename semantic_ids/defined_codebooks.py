"""List of codebooks whose views may be registered (``data/defined.json``), kept independently of the catalogue."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

from sidkit.core.errors import ArtifactCorruptError, StorageError
from sidkit.core.integrity import read_sealed, say_discarded, write_sealed

_NAMES = "names"
_VIEW = "item_sid_"


def names_in(witness: Path) -> set[str]:
    """The names in the list; empty when the file is missing.

    A damaged list is rebuilt from the views in the registry next to it.
    """
    if not witness.exists():
        return set()
    try:
        return set(read_sealed(witness)[_NAMES])
    except (ArtifactCorruptError, KeyError):
        say_discarded(witness, "the list of defined codebooks is damaged")
        names = _names_in_registry(witness.with_name("registry.sqlite"))
        with contextlib.suppress(StorageError, OSError):  # a reader may lack write permission
            write_names(witness, names)
        return names


def write_names(witness: Path, names: set[str]) -> None:
    """Write the list atomically."""
    write_sealed(witness, {_NAMES: sorted(names)})


def _names_in_registry(registry: Path) -> set[str]:
    """Codebooks with a view in a SQLite registry; empty for other kinds of registry."""
    if not registry.is_file():
        return set()
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(registry))}?mode=ro", uri=True)) as opened:
        try:
            views = [str(row[0]) for row in opened.execute("SELECT feature_view_name FROM feature_views")]
        except sqlite3.DatabaseError:
            return set()
    return {view.removeprefix(_VIEW) for view in views if view.startswith(_VIEW)}
