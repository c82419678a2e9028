"""Presets: which parts make a system, one small TOML each. Each room reads its own tables of the file."""

from __future__ import annotations

from pathlib import Path

from sidkit.core.errors import ConfigError
from sidkit.core.names import check_name

COMPARISON = "comparison"
"""The folder of ``artifacts/runs`` that comparisons take; no preset may be called so."""
_FOLDER = Path(__file__).parent
ARMS = _FOLDER / "arms"
"""The folder of the arms that are shipped."""


def preset_names() -> list[str]:
    """The presets that are shipped."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def preset_name(preset: str) -> str:
    """What a preset is called: the name that was given, or that of its file without ``.toml``.

    Raises
    ------
    ConfigError
        When it cannot be the name of a folder (:mod:`sidkit.core.names`), or is taken by comparisons.
    """
    name = Path(preset).name.removesuffix(".toml") if preset.endswith(".toml") else preset
    check_name("preset", name)
    if name.lower() == COMPARISON:
        raise ConfigError(f"a preset cannot be called {name!r}, comparisons keep their work under it; rename the file")
    return name


def preset_path(name: str) -> Path:
    """The file of a preset: a shipped one by name, or the user's own by a path that ends in ``.toml``.

    Raises
    ------
    ConfigError
        When there is no such file, or its name cannot be one (:func:`preset_name`).
    """
    preset_name(name)
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(
            f"no preset {name!r}; there are {', '.join(preset_names())}, or give the path of a .toml file"
        )
    return path
