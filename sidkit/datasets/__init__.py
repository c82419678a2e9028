"""Generated and published data sets, and sampling of labelled rows from logs.

``--data`` names an existing source (a folder, a URL) or a data set that code writes: one of :data:`DATASETS`, or a plug-in
(:mod:`sidkit.core.plugins`) that derives from :class:`sidkit.datasets.base.GeneratedDataset`. Both take an optional variant
after a colon; for a published data set (:class:`sidkit.datasets.published.PublishedDataset`) it is the folder of its files.
"""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sidkit.core.errors import ConfigError
from sidkit.core.files import folder_written_beside, remove, typed_path
from sidkit.core.plugins import Plugin, Registry

if TYPE_CHECKING:
    from sidkit.datasets.base import GeneratedDataset

SYNTHETIC = "synthetic"
PUBLISHED = {
    "movielens": "sidkit.datasets.movielens:MovieLens",
    "amazon_reviews": "sidkit.datasets.amazon_reviews:AmazonReviews",
    "mind": "sidkit.datasets.mind:Mind",
    "kuairand": "sidkit.datasets.kuairand:KuaiRand",
    "hm": "sidkit.datasets.hm:HM",
    "yambda": "sidkit.datasets.yambda:Yambda",
}
DATASETS = {SYNTHETIC: "sidkit.datasets.synthetic:SyntheticDataset", **PUBLISHED}

DATASET_NAMES: Registry[GeneratedDataset] = Registry(
    "data set", "sidkit.datasets", "sidkit.datasets.base:GeneratedDataset", DATASETS, takes=("variant",)
)
"""Registry of generated data sets, built-in and plug-ins, for ``--data``."""

_PLUGIN_FILE = re.compile(r"(?P<name>.+\.py:[^\W\d]\w*)(?::(?P<variant>.*))?", re.DOTALL)

__all__ = ["DATASETS", "DATASET_NAMES", "PUBLISHED", "SYNTHETIC", "NamedDataset", "convert", "named_dataset"]


@dataclass(frozen=True)
class NamedDataset:
    """A generated data set as given by ``--data``: a built-in name or the reference of a plug-in, and a variant."""

    name: str
    variant: str

    @property
    def plugin(self) -> Plugin | None:
        """The plug-in; None for a built-in data set."""
        return DATASET_NAMES.plugin(self.name)

    @property
    def is_sized(self) -> bool:
        """Whether ``--impressions`` sets its size; a published data set has the size of its files."""
        return self.name not in PUBLISHED

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


def convert(name: str, folder: Path | str, out: Path | str) -> dict[str, int]:
    """Convert the files of a published data set to the tables of the input contract.

    Parameters
    ----------
    name : str
        A name in :data:`PUBLISHED`.
    folder : Path or str
        Folder of the published files.
    out : Path or str
        A new folder; it appears when all tables are written.

    Returns
    -------
    dict
        Number of rows per table.

    Raises
    ------
    ConfigError
        When the name is unknown, the folder is missing, or ``out`` exists.
    ContractError
        When a published file is missing, lacks a column or cannot be read.
    """
    import pyarrow.parquet as pq

    if name not in PUBLISHED:
        raise ConfigError(f"expected a published data set, got {name!r}; available: {', '.join(PUBLISHED)}")
    target = typed_path(out)
    if target.exists():
        raise ConfigError(f"expected a new folder for the tables, got {target}, which exists; name another one")
    dataset = DATASET_NAMES.find(name)(variant=str(folder))
    with folder_written_beside(target) as temporary:
        dataset.write(temporary, 0)
    return {file.stem: pq.read_metadata(file).num_rows for file in sorted(target.glob("*.parquet"))}
