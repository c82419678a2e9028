"""Generated data sets, and sampling of labelled rows from logs.

``--data`` names an existing source (a folder, a URL) or a generated data set: one of :data:`DATASETS`, or a plug-in
(:mod:`sidkit.core.plugins`) that derives from :class:`sidkit.datasets.base.GeneratedDataset`. Both take an optional variant
after a colon.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sidkit.core.files import remove
from sidkit.core.plugins import Plugin, Registry

if TYPE_CHECKING:
    from sidkit.datasets.base import GeneratedDataset

SYNTHETIC = "synthetic"
DATASETS = {SYNTHETIC: "sidkit.datasets.synthetic:SyntheticDataset"}

DATASET_NAMES: Registry[GeneratedDataset] = Registry(
    "data set", "sidkit.datasets", "sidkit.datasets.base:GeneratedDataset", DATASETS, takes=("variant",)
)
"""Registry of generated data sets, built-in and plug-ins, for ``--data``."""

_PLUGIN_FILE = re.compile(r"(?P<name>.+\.py:[^\W\d]\w*)(?::(?P<variant>.*))?", re.DOTALL)

__all__ = ["DATASETS", "DATASET_NAMES", "SYNTHETIC", "NamedDataset", "named_dataset"]


@dataclass(frozen=True)
class NamedDataset:
    """A generated data set as given by ``--data``: a built-in name or the reference of a plug-in, and a variant."""

    name: str
    variant: str

    @property
    def plugin(self) -> Plugin | None:
        """The plug-in; None for a built-in data set."""
        return DATASET_NAMES.plugin(self.name)

    def make(self) -> GeneratedDataset:
        """Instantiate the data set."""
        return DATASET_NAMES.find(self.name)(variant=self.variant)

    def write(self, out: Path, impressions: int) -> int:
        """Write the tables to a folder, in place of earlier ones; returns the number of interactions."""
        remove(out)
        out.mkdir(parents=True)
        return self.make().write(out, impressions)


def named_dataset(data: str) -> NamedDataset | None:
    """Return the generated data set that ``--data`` names; None for a folder or a URL.

    A folder takes precedence over an entry point of the same name.

    Raises
    ------
    PluginError
        When it names a user-defined class that cannot be used.
    """
    name, _, variant = data.partition(":")
    if name in DATASETS:
        return NamedDataset(name, variant)
    if "://" in data or name == "env" or os.path.exists(data):  # noqa: PTH110 (Path.exists raises for names that are too long)
        return None
    if match := _PLUGIN_FILE.fullmatch(data):
        return NamedDataset(DATASET_NAMES.resolved(match["name"]), match["variant"] or "")
    resolved = DATASET_NAMES.resolved(name)
    return NamedDataset(resolved, variant) if resolved != name else None
