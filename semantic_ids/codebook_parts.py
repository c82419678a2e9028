"""The encoder, the quantizer and the search of a codebook by name: what a preset, a sweep and an artefact say of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from semantic_ids.encoders import ENCODER_NAMES, Encoder
from semantic_ids.quantizers import QUANTIZER_NAMES, Quantizer
from sidkit.core.config import Section
from sidkit.core.errors import ConfigError
from sidkit.core.plugins import Plugin, Registry

T = TypeVar("T")


class CodebookParts(Section):
    """What decides a codebook besides the data and the sizes of its levels."""

    encoder: str = "content"
    """A name in :data:`semantic_ids.encoders.ENCODERS`, or a plug-in (:mod:`sidkit.core.plugins`)."""
    encoder_arguments: dict[str, Any] = Field(default_factory=dict)
    quantizer: str = "residual_kmeans"
    """A name in :data:`semantic_ids.quantizers.QUANTIZERS`, or a plug-in."""
    quantizer_arguments: dict[str, Any] = Field(default_factory=dict)
    beam: int = Field(default=1, ge=1)
    """Paths of the search at ``encode``."""

    @field_validator("encoder")
    @classmethod
    def _encoder_is_resolved(cls, name: str, info: ValidationInfo) -> str:
        return ENCODER_NAMES.resolved_field(name, info)

    @field_validator("quantizer")
    @classmethod
    def _quantizer_is_resolved(cls, name: str, info: ValidationInfo) -> str:
        return QUANTIZER_NAMES.resolved_field(name, info)

    @property
    def needs_pairs(self) -> bool:
        """Whether the encoder or the quantizer learns from pairs of items; nothing is built to answer.

        Raises
        ------
        ConfigError
            When there is no such encoder or quantizer, or an argument is of a wrong type.
        """
        asked = (
            (ENCODER_NAMES.find(self.encoder), self.encoder_arguments),
            (QUANTIZER_NAMES.find(self.quantizer), self.quantizer_arguments),
        )
        try:
            return any(kind.needs_pairs_with(arguments) for kind, arguments in asked)
        except TypeError as error:
            raise ConfigError(f"{self.encoder}, {self.quantizer}: {error}") from error


def make_encoder(name: str, arguments: Mapping[str, Any]) -> Encoder:
    """An encoder by its name in the registry, or a plug-in's.

    Raises
    ------
    ConfigError
        When there is none, or it does not take an argument.
    """
    return _made(ENCODER_NAMES, name, arguments)


def make_quantizer(name: str, arguments: Mapping[str, Any]) -> Quantizer:
    """A quantizer by its name in the registry, or a plug-in's; ``force`` is left out where the constructor has none.

    Raises
    ------
    ConfigError
        When there is none, or it does not take an argument.
    """
    if not _takes(QUANTIZER_NAMES.find(name), "force"):
        arguments = {key: value for key, value in arguments.items() if key != "force"}
    return _made(QUANTIZER_NAMES, name, arguments)


def plugins_of(encoder: Encoder, quantizer: Quantizer) -> list[Plugin | None]:
    """The plug-ins that an encoder and a quantizer are."""
    return [
        ENCODER_NAMES.plugin(ENCODER_NAMES.name_of(encoder)),
        QUANTIZER_NAMES.plugin(QUANTIZER_NAMES.name_of(quantizer)),
    ]


def _made(registry: Registry[T], name: str, arguments: Mapping[str, Any]) -> T:
    kind = registry.find(name)
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{name}: {error}") from error


def _takes(kind: type[Any], argument: str) -> bool:
    parameters = inspect.signature(kind).parameters
    return argument in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())
