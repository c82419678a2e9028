"""Data sets, and how labelled rows are drawn from logs.

``--data`` names a source that exists (a folder, a URL) or a data set that code writes: one of :data:`DATASETS`, or a plug-in
(:mod:`sidkit.core.plugins`) on :class:`sidkit.datasets.base.GeneratedDataset`, both with an optional variant after a colon.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidkit.core.plugins import Plugin, Registry

if TYPE_CHECKING:
    from sidkit.datasets.base import GeneratedDataset

SYNTHETIC = "synthetic"
DATASETS = {SYNTHETIC: "sidkit.datasets.synthetic:SyntheticDataset"}

DATASET_NAMES: Registry[GeneratedDataset] = Registry(
    "data set", "sidkit.datasets", "sidkit.datasets.base:GeneratedDataset", DATASETS, takes=("variant",)
)
"""What ``--data`` may name besides folders and URLs: the above, and plug-ins."""

_OWN = re.compile(r"(?P<name>.+\.py:[^\W\d]\w*)(?::(?P<variant>.*))?", re.DOTALL)

__all__ = ["DATASETS", "DATASET_NAMES", "SYNTHETIC", "NamedDataset", "named_dataset"]


@dataclass(frozen=True)
class NamedDataset:
    """A data set that code writes, as ``--data`` names it: a built-in name or the reference of a plug-in, and a variant."""

    name: str
    variant: str

    @property
    def plugin(self) -> Plugin | None:
        """The plug-in that it is; None for a built-in one."""
        return DATASET_NAMES.plugin(self.name)

    def make(self) -> GeneratedDataset:
        """The data set itself."""
        return DATASET_NAMES.find(self.name)(variant=self.variant)


def named_dataset(data: str) -> NamedDataset | None:
    """The data set that ``--data`` names; None where it names a folder or a URL.

    A folder comes before an entry point of the same name.

    Raises
    ------
    PluginError
        When it names a class of a user's own that cannot be used.
    """
    name, _, variant = data.partition(":")
    if name in DATASETS:
        return NamedDataset(name, variant)
    if "://" in data or name == "env" or os.path.exists(data):  # noqa: PTH110 (Path.exists raises for what is too long)
        return None
    if own := _OWN.fullmatch(data):
        return NamedDataset(DATASET_NAMES.resolved(own["name"]), own["variant"] or "")
    resolved = DATASET_NAMES.resolved(name)
    return NamedDataset(resolved, variant) if resolved != name else None
