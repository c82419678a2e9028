"""The reference of presets: keys, parts, built-in presets and arms."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

from ranking.models.histories import HISTORIES, HISTORY_NAMES
from ranking.models.representations import REPRESENTATION_NAMES, REPRESENTATIONS
from ranking.pipeline.presets import Preset
from semantic_ids.encoders import ENCODER_NAMES, ENCODERS
from semantic_ids.quantizers import QUANTIZER_NAMES, QUANTIZERS
from sidkit.core.plugins import Registry
from sidkit.presets import ARMS, preset_names, preset_path
from site_models import section_text, sections
from site_text import cell, summary, table

_HEAD = """\
# Presets

A preset is a TOML file that defines a codebook, a ranker and the arms to compare: `--preset NAME` for a built-in one,
`--preset path/to/file.toml` for your own. Copy one of the [built-in presets](#built-in-presets) and change it. Unknown keys
are rejected. This page is generated from the models and the registries.

"""
_PARTS = """\
## Parts by name

Wherever a preset names a part, it may name a class of yours as `path/to/file.py:Class` (relative to the preset), or an entry
point of an installed package in the group of the last column. See [Write a quantizer](../how-to/own-quantizer.md) and
[Write a representation](../how-to/own-representation.md).

"""


def presets_page() -> str:
    """All keys, then the parts by name, the built-in presets and the built-in arms."""
    return "\n".join([_HEAD, _keys(), _PARTS, *_parts(), _presets(), _arms()])


def _keys() -> str:
    found = sections(Preset)
    lines = []
    for path, model in found.items():
        if path == "arms.NAME.model":
            lines.append(
                "## `[arms.NAME.model]` {#arms-name-model}\n\nThe keys of [`[ranker.model]`](#ranker-model); unset keys are "
                "inherited from there.\n"
            )
        else:
            lines.append(section_text(path, model))
    return "\n".join(lines)


def _parts() -> list[str]:
    listed: tuple[tuple[str, Mapping[str, object], Registry[object]], ...] = (
        ("Encoders", ENCODERS, ENCODER_NAMES),
        ("Quantizers", QUANTIZERS, QUANTIZER_NAMES),
        ("Representations", REPRESENTATIONS, REPRESENTATION_NAMES),
        ("Histories", HISTORIES, HISTORY_NAMES),
    )
    return [_registry(title, names, registry) for title, names, registry in listed]


def _registry(title: str, names: Mapping[str, object], registry: Registry[object]) -> str:
    rows = [
        (f"`{name}`", f"`{(kind := registry.find(name)).__name__}`", cell(summary(kind)), f"`{registry.group}`")
        for name in names
    ]
    return f"### {title}\n\n{table(('name', 'class', 'what it does', 'entry points'), rows)}"


def _presets() -> str:
    lines = ["## Built-in presets\n"]
    for name in preset_names():
        lines.append(f"### {name}\n\n```toml\n{preset_path(name).read_text().strip()}\n```\n")
    return "\n".join(lines)


def _arms() -> str:
    rows = []
    for path in sorted(ARMS.glob("*.toml")):
        text = path.read_text()
        arm = tomllib.loads(text)
        rows.append((f"`{path.stem}`", arm.get("paper", ""), cell(arm["title"]), cell(_comment(text))))
    return (
        "## Built-in arms\n\nThe arms of `sidkit ranker compare --arms NAME,NAME`, with their numbers in the papers' table.\n\n"
        + table(("arm", "number", "inputs", "purpose"), rows)
    )


def _comment(text: str) -> str:
    """The comment at the start of a file."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)
