"""Settings files: accepted only if every key and value is honoured, else one error that names the key or the file."""

from __future__ import annotations

import math
import random
import tomllib
from pathlib import Path
from typing import Any

from .generators_settings import GOOD, KEYS, SettingsFile, draw_settings
from .outcome import RIGHT, TRACEBACK, Verdict, error_of
from .place import Place
from .processes import command
from .source_files import store_parquet
from .source_rows import draw_rows


def case(draw: random.Random, place: Place) -> Verdict:
    """Try one settings file: a command of the CLI that reads it, then what the kit understood."""
    from sidkit.core.repo import init_repo

    drawn = draw_settings(draw)
    verdict = Verdict(did=repr(drawn.data[:400].decode("utf-8", "backslashreplace")))
    repo = place.root / "settings"
    init_repo(repo)
    (repo / "sidkit.toml").write_bytes(drawn.data)
    source = place.root / "in" / "source"
    store_parquet(random.Random("a valid source"), draw_rows(random.Random(3)), source, plain=True)
    ran = command("data", "check", source, "--repo", repo, cwd=place.root / "cwd", tmp=place.tmp)
    outcome, why = error_of(ran)
    understood, refused = _understood(repo / "sidkit.toml")
    if refused is not None:
        accepted = False
        outcome, why = error_of(ran, names=_names(drawn)) if outcome != TRACEBACK else (outcome, why)
        if outcome == RIGHT:
            verdict.wrong("the command runs on settings that cannot be loaded")
        verdict.add(outcome, why)
        if "secret" in ran.err:
            verdict.wrong("it prints a password")
    else:
        accepted = True
        verdict.add(outcome, why)
    if accepted:
        _check_honoured(verdict, drawn, understood)
    elif drawn.stated and not drawn.odd and _fits(drawn):
        verdict.wrong(f"refused although every key and value is right: {refused}")
    return verdict


def _understood(path: Path) -> tuple[dict[str, Any], str | None]:
    from sidkit.core.config import Settings
    from sidkit.core.errors import SidkitError

    try:
        return Settings.load(path).model_dump(), None
    except SidkitError as error:
        return {}, str(error)
    except Exception as error:  # noqa: BLE001 (the command above has shown it)
        return {}, repr(error)


def _names(drawn: SettingsFile) -> list[str]:
    """What an error may name: an odd key, a pair of keys that do not fit together, or the file."""
    if not drawn.odd:
        return ["sidkit.toml"]
    return (
        [key.strip("'\" ") for key in drawn.odd]
        + [key.split(".")[-1] for key in drawn.odd]
        + (["valid TOML"] if not _parses(drawn) else ["split"])
    )


def _parses(drawn: SettingsFile) -> bool:
    try:
        tomllib.loads(drawn.data.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _fits(drawn: SettingsFile) -> bool:
    if not _parses(drawn):
        return False
    train, validation = (
        float(drawn.stated.get(f"split.{name}", text)) for name, text in (("train", "0.8"), ("validation", "0.1"))
    )
    return train + validation < 1 and all(value in GOOD[key] for key, value in drawn.stated.items())


def _check_honoured(verdict: Verdict, drawn: SettingsFile, understood: dict[str, Any]) -> None:
    try:
        stated = tomllib.loads(drawn.data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        verdict.wrong(f"accepted although it is no TOML ({error})")
        return
    for key, value in _flat(stated):
        if key not in KEYS:
            if not (isinstance(value, dict) and not value and any(known.startswith(f"{key}.") for known in KEYS)):
                verdict.wrong(f"{key} is unknown and was accepted")
            continue
        section, name = key.split(".")
        got = understood[section][name]
        if not KEYS[key](value):
            verdict.wrong(f"{key} = {value!r} was accepted, as {got!r}")
        elif not _equal(value, got):
            verdict.wrong(f"{key} = {value!r} became {got!r}")


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and path not in KEYS:
            found += _flat(value, f"{path}.")
        else:
            found.append((path, value))
    return found


def _equal(value: Any, got: Any) -> bool:
    if isinstance(value, list):
        return list(got) == value
    if isinstance(value, float) and math.isnan(value):
        return False
    return bool(value == got)
