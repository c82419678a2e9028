"""A codebook: one fitted encoder and one fitted quantizer, immutable on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from semantic_ids.codebook_parts import make_encoder, make_quantizer, plugins_of
from semantic_ids.decoding import decoded_vectors
from semantic_ids.encoders import ENCODER_NAMES, Encoder
from semantic_ids.encoders.base import Items
from semantic_ids.estimator_files import CONFIG, TENSORS, check_kind, existing_folder, write_tensors
from semantic_ids.neighbour_lists import NeighbourLists
from semantic_ids.quantizers import QUANTIZER_NAMES, Quantizer
from semantic_ids.quantizers.base import CodeGroup
from semantic_ids.records import CodebookRecord
from sidkit.core.arrays import Codes, Floats
from sidkit.core.artifact import read_manifest, reading, tensors_under, write_artifact
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import read_json
from sidkit.core.integrity import verify_all
from sidkit.core.plugins import described, load_plugins, write_sources

METRICS = "metrics.json"
LISTS = "neighbours.parquet"


@dataclass(frozen=True)
class Assignment:
    """Codes of a set of items: ``codes`` ``int32 [items, levels]``, ``residual_norm`` ``float32 [items]``, and
    ``encodable`` ``bool [items]``, false where an item has no content at all (its codes mean nothing).
    """

    codes: Codes
    residual_norm: Floats
    encodable: npt.NDArray[np.bool_]


class Codebook:
    """Map item content to semantic IDs with a fitted encoder and a fitted quantizer.

    Parameters
    ----------
    name : str
        Name of this version; rankers and feature views refer to it.
    encoder, quantizer
        Both fitted.
    beam : int
        Beam width of the code search; part of the version, because it changes the codes.
    neighbours : NeighbourLists, optional
        Nearest items of the items of the fit, for rankers.

    Attributes
    ----------
    sizes : tuple of int
        Codes per level.
    learned_from_clicks : bool
        Whether the codes, or the neighbours, depend on clicks.

    Examples
    --------
    A codebook of a repository is loaded by :func:`load_codebook`. One can also be made of any two fitted parts:

    >>> import numpy as np
    >>> from semantic_ids import Codebook, ContentEncoder, ResidualKMeans
    >>> x = np.random.default_rng(0).normal(size=(500, 16)).astype("float32")
    >>> encoder = ContentEncoder(dim=8).fit(x)
    >>> quantizer = ResidualKMeans(sizes=(16, 8)).fit(encoder.transform(x))
    >>> book = Codebook("toy", encoder, quantizer)
    >>> book
    Codebook('toy', encoder=ContentEncoder(dim=8), quantizer=ResidualKMeans(sizes=(16, 8)), beam=1)
    >>> book.encode(x).shape, book.sizes
    ((500, 2), (16, 8))
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        quantizer: Quantizer,
        beam: int = 1,
        neighbours: NeighbourLists | None = None,
    ) -> None:
        self.name = name
        self.encoder = encoder
        self.quantizer = quantizer
        self.beam = beam
        self.neighbours = neighbours

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per level."""
        return self.quantizer.sizes_

    @property
    def code_groups(self) -> tuple[CodeGroup, ...]:
        """The levels by group; only those of an ordered group have prefixes."""
        return self.quantizer.code_groups

    @property
    def learned_from_clicks(self) -> bool:
        """Whether the codes or the neighbours depend on clicks. If so, they look better inside their own fit window than
        after it.
        """
        of_clicks = self.neighbours is not None and self.neighbours.learned_from_clicks
        return self.encoder.needs_pairs or self.quantizer.needs_pairs or of_clicks

    def vectors(self, items: Items) -> Floats:
        """The encoder's vectors, ``float32 [items, dim]``."""
        return self.encoder.transform(items)

    def encode(self, items: Items) -> Codes:
        """Codes ``int32 [items, levels]`` of item vectors, or of a matrix ``[items, dim]`` of one modality.

        The codes of an item without any modality mean nothing; :meth:`assign` marks these items.
        """
        return self.codes_of(self.vectors(items))

    def codes_of(self, vectors: Floats) -> Codes:
        """Codes ``int32 [items, levels]`` of the encoder's vectors."""
        return self.quantizer.encode(vectors, beam=self.beam)

    def decode(self, codes: Codes) -> Floats:
        """What codes stand for in the encoder's space, ``float32 [items, dim]``.

        Parameters
        ----------
        codes : int32 [items, levels]
            -1 for items without codes, whose vectors are zeros.

        Raises
        ------
        FitError
            When the quantizer cannot decode.
        """
        return decoded_vectors(self.quantizer, codes, self.encoder.output_dim)

    def assign(self, items: Items) -> Assignment:
        """Codes of any items, including items that appeared after the fit."""
        items = self.encoder.as_items(items)
        vectors = self.vectors(items)
        codes = self.codes_of(vectors)
        residual = np.linalg.norm(vectors - self.quantizer.decode(codes), axis=1).astype(np.float32)
        return Assignment(codes, residual, items.any_present)

    def __repr__(self) -> str:
        return f"Codebook({self.name!r}, encoder={self.encoder!r}, quantizer={self.quantizer!r}, beam={self.beam})"

    def config(self) -> dict[str, Any]:
        """All constructor arguments, as JSON values."""
        return {
            "beam": self.beam,
            "encoder": {"name": ENCODER_NAMES.name_of(self.encoder), "arguments": self.encoder.config()},
            "quantizer": {"name": QUANTIZER_NAMES.name_of(self.quantizer), "arguments": self.quantizer.config()},
        }

    def save(
        self, folder: str | Path, describe: Mapping[str, Any] | None = None, metrics: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write the artefact; see :func:`sidkit.core.artifact.write_artifact`.

        ``describe`` are fields of the manifest, and ``metrics`` the quality of the codes; both are empty by default.

        Plug-ins are recorded in the manifest, and files among them copied: see :mod:`sidkit.core.plugins`.
        """
        plugins = plugins_of(self.encoder, self.quantizer)

        def write_files(temporary: Path) -> None:
            tensors = {f"encoder.{key}": value for key, value in self.encoder.tensors().items()}
            tensors |= {f"quantizer.{key}": value for key, value in self.quantizer.tensors().items()}
            write_tensors(temporary, tensors)
            (temporary / CONFIG).write_text(json.dumps(self.config(), indent=2, sort_keys=True) + "\n")
            (temporary / METRICS).write_text(json.dumps(metrics or {}, indent=2, sort_keys=True) + "\n")
            if self.neighbours is not None:
                self.neighbours.write(temporary / LISTS)
            write_sources(temporary, plugins)

        stated = {"kind": "codebook", "name": self.name, **(describe or {}), **described(plugins)}
        return write_artifact(Path(folder), stated, write_files)

    @classmethod
    def load(cls, folder: Path) -> Codebook:
        """Read an artefact and verify its hashes.

        Raises
        ------
        ArtifactError
            When the folder is missing, was changed or holds something else, or a plug-in is not the one that it was made with.
        PluginError
            When a plug-in cannot be imported here.
        """
        from safetensors.numpy import load_file

        manifest = read_manifest(folder, verify=False)
        check_kind(folder, manifest, "codebook")
        load_plugins(folder, manifest)
        verify_all(folder, manifest)
        with reading(folder, manifest):
            config = read_json(folder / CONFIG)
            tensors = load_file(folder / TENSORS)
            encoder = make_encoder(**config["encoder"])
            quantizer = make_quantizer(**config["quantizer"])
            neighbours = NeighbourLists.read(folder / LISTS)
            encoder.load_tensors(tensors_under(tensors, "encoder."))
            quantizer.load_tensors(tensors_under(tensors, "quantizer."))
        return cls(manifest["name"], encoder, quantizer, config["beam"], neighbours)


def load_codebook(path: str | Path) -> Codebook:
    """Load a codebook from its folder, such as ``<repository>/artifacts/codebooks/<name>``, and verify its hashes.

    Parameters
    ----------
    path : str or Path
        The folder.

    Returns
    -------
    Codebook
        ``encode`` gives the codes of any items.

    Raises
    ------
    ArtifactError
        When the folder is missing, was changed or holds something else, or a plug-in is not the one that it was made with.
    PluginError
        When a plug-in cannot be imported here.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from semantic_ids import Codebook, ContentEncoder, ResidualKMeans, load_codebook
    >>> x = np.random.default_rng(0).normal(size=(500, 16)).astype("float32")
    >>> encoder = ContentEncoder(dim=8).fit(x)
    >>> book = Codebook("toy", encoder, ResidualKMeans(sizes=(16, 8)).fit(encoder.transform(x)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = book.save(f"{folder}/toy")
    ...     loaded = load_codebook(f"{folder}/toy")
    >>> bool((loaded.encode(x) == book.encode(x)).all())
    True
    """
    return Codebook.load(existing_folder(path))


def load_committed(folder: Path, record: CodebookRecord) -> tuple[Codebook, dict[str, Any]]:
    """Load the codebook with the content hash recorded in the catalogue; returns it and its manifest.

    Raises
    ------
    ArtifactError
        When the folder is missing, was changed, or holds another codebook.
    """
    codebook, manifest = Codebook.load(folder), read_manifest(folder, verify=False)
    if (manifest["name"], manifest["content_hash"]) != (record.name, record.content_hash):
        raise ArtifactCorruptError(
            folder,
            f"holds {manifest['name']} ({manifest['content_hash'][:12]}), but the catalogue records {record.name} "
            f"({record.content_hash[:12]})",
        )
    return codebook, manifest
