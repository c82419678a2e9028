"""Presets: which parts make a system, one small TOML each. Each room reads its own tables of the file."""

from __future__ import annotations

from pathlib import Path

from sidkit.errors import ConfigError

_FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """The presets that are shipped."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def preset_path(name: str) -> Path:
    """The file of a preset: a shipped one by name, or the user's own by a path that ends in ``.toml``.

    Raises
    ------
    ConfigError
        When there is no such file.
    """
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(
            f"no preset {name!r}; there are {', '.join(preset_names())}, or give the path of a .toml file"
        )
    return path
