"""Presets: one TOML file per system (codebook, ranker, arms). Each package reads its own tables of the file."""

from __future__ import annotations

from pathlib import Path

from sidkit.core.errors import ConfigError
from sidkit.core.names import check_name

COMPARISON = "comparison"
"""Folder of ``artifacts/runs`` reserved for comparisons; not allowed as a preset name."""
_FOLDER = Path(__file__).parent
ARMS = _FOLDER / "arms"
"""Folder of the built-in arms."""


def preset_names() -> list[str]:
    """Names of the built-in presets."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def preset_name(preset: str) -> str:
    """Name of a preset: the given name, or that of its file without ``.toml``.

    Raises
    ------
    ConfigError
        When it is not a valid name (:mod:`sidkit.core.names`), or is reserved for comparisons.
    """
    name = Path(preset).name.removesuffix(".toml") if preset.endswith(".toml") else preset
    check_name("preset", name)
    if name.lower() == COMPARISON:
        raise ConfigError(f"the preset name {name!r} is reserved for comparisons; rename the file")
    return name


def preset_path(name: str) -> Path:
    """Path of a preset: a built-in one by name, or the user's own file by a path that ends in ``.toml``.

    Raises
    ------
    ConfigError
        When the file does not exist or its name is invalid (:func:`preset_name`).
    """
    preset_name(name)
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(
            f"no preset named {name!r}; available: {', '.join(preset_names())}, or pass the path of a .toml file"
        )
    return path
