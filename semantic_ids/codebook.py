"""A codebook: one fitted encoder and one fitted quantizer, immutable on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from semantic_ids.encoders import ENCODERS, Encoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.quantizers import QUANTIZERS, Quantizer
from semantic_ids.records import CodebookRecord
from sidkit.core.arrays import Codes, Floats
from sidkit.core.artifact import read_manifest, tensors_under, write_artifact
from sidkit.core.errors import ArtifactCorruptError, ConfigError
from sidkit.core.files import read_json

TENSORS = "tensors.safetensors"
CONFIG = "config.json"
METRICS = "metrics.json"


@dataclass(frozen=True)
class Assignment:
    """Codes of a set of items: ``codes`` ``int32 [items, levels]``, ``residual_norm`` ``float32 [items]``, and
    ``encodable`` ``bool [items]``, false where an item has no content at all (its codes mean nothing).
    """

    codes: Codes
    residual_norm: Floats
    encodable: npt.NDArray[np.bool_]


class Codebook:
    """What turns content into codes.

    Parameters
    ----------
    name : str
        The version's name; rankers and feature views refer to it.
    encoder, quantizer
        Both fitted.
    beam : int
        Width of the search at ``assign``; part of the version, since it decides codes.
    """

    def __init__(self, name: str, encoder: Encoder, quantizer: Quantizer, beam: int = 1) -> None:
        self.name = name
        self.encoder = encoder
        self.quantizer = quantizer
        self.beam = beam

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per level."""
        return self.quantizer.sizes

    @property
    def learned_from_clicks(self) -> bool:
        """Whether its codes know anything of behaviour: on the rows of their own window they then say more than later."""
        return self.encoder.needs_pairs or self.quantizer.needs_pairs

    def vectors(self, items: ItemVectors) -> Floats:
        """The encoder's vectors, ``float32 [items, dim]``."""
        return self.encoder.encode(items)

    def codes_of(self, vectors: Floats) -> Codes:
        """Codes ``int32 [items, levels]`` of the encoder's vectors."""
        return self.quantizer.encode(vectors, beam=self.beam)

    def assign(self, items: ItemVectors) -> Assignment:
        """Codes of any items, born before or after the fit."""
        vectors = self.vectors(items)
        codes = self.codes_of(vectors)
        residual = np.linalg.norm(vectors - self.quantizer.decode(codes), axis=1).astype(np.float32)
        return Assignment(codes, residual, items.any_present)

    def config(self) -> dict[str, Any]:
        """All constructor arguments, as JSON values."""
        return {
            "beam": self.beam,
            "encoder": {"name": self.encoder.name, "arguments": self.encoder.config()},
            "quantizer": {"name": self.quantizer.name, "arguments": self.quantizer.config()},
        }

    def save(self, folder: Path, describe: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Write the artefact; see :func:`sidkit.core.artifact.write_artifact`."""
        from safetensors.numpy import save_file

        def write_files(temporary: Path) -> None:
            tensors = {f"encoder.{key}": value for key, value in self.encoder.tensors().items()}
            tensors |= {f"quantizer.{key}": value for key, value in self.quantizer.tensors().items()}
            save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, temporary / TENSORS)
            (temporary / CONFIG).write_text(json.dumps(self.config(), indent=2, sort_keys=True) + "\n")
            (temporary / METRICS).write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")

        return write_artifact(folder, {"kind": "codebook", "name": self.name, **describe}, write_files)

    @classmethod
    def load(cls, folder: Path) -> Codebook:
        """Read an artefact and verify its hashes.

        Raises
        ------
        ArtifactError
            When the folder is missing or was changed.
        """
        from safetensors.numpy import load_file

        manifest = read_manifest(folder)
        try:
            config = read_json(folder / CONFIG)
            tensors = load_file(folder / TENSORS)
            encoder = _made(ENCODERS, config["encoder"])
            quantizer = _made(QUANTIZERS, config["quantizer"])
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise ArtifactCorruptError(folder, f"cannot be read ({type(error).__name__}: {error})") from error
        encoder.load_tensors(tensors_under(tensors, "encoder."))
        quantizer.load_tensors(tensors_under(tensors, "quantizer."))
        return cls(manifest["name"], encoder, quantizer, config["beam"])


def load_committed(folder: Path, record: CodebookRecord) -> tuple[Codebook, dict[str, Any]]:
    """The codebook whose content hash the catalogue committed, and its manifest.

    Raises
    ------
    ArtifactError
        When the folder is missing, was changed, or holds another codebook.
    """
    codebook, manifest = Codebook.load(folder), read_manifest(folder, verify=False)
    if (manifest["name"], manifest["content_hash"]) != (record.name, record.content_hash):
        raise ArtifactCorruptError(
            folder,
            f"holds {manifest['name']} ({manifest['content_hash'][:12]}), and the catalogue committed {record.name} "
            f"({record.content_hash[:12]})",
        )
    return codebook, manifest


def make_encoder(name: str, arguments: Mapping[str, Any]) -> Encoder:
    """An encoder by its name in the registry."""
    encoder: Encoder = _made(ENCODERS, {"name": name, "arguments": dict(arguments)})
    return encoder


def make_quantizer(name: str, arguments: Mapping[str, Any]) -> Quantizer:
    """A quantizer by its name in the registry."""
    quantizer: Quantizer = _made(QUANTIZERS, {"name": name, "arguments": dict(arguments)})
    return quantizer


def _made(registry: Mapping[str, type[Any]], described: Mapping[str, Any]) -> Any:
    if described["name"] not in registry:
        raise ConfigError(f"no {described['name']!r}; there are {', '.join(registry)}")
    try:
        return registry[described["name"]](**described["arguments"])
    except TypeError as error:
        raise ConfigError(f"{described['name']}: {error}") from error
