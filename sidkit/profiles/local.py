"""``local``: everything in files of the repository, on one machine. The template has its texts."""

from __future__ import annotations

from sidkit.core.repo import FEAST_FILE, template_folder
from sidkit.profiles.base import SECTIONS, Profile
from sidkit.profiles.feast_file import sections_of

_TEMPLATE = sections_of((template_folder() / FEAST_FILE).read_text(encoding="utf-8"))

LOCAL = Profile(
    name="local",
    summary="DuckDB tables and training frames, a packed SQLite online store, a SQLite registry and catalogue",
    sections={name: _TEMPLATE[name] for name in SECTIONS},
)
