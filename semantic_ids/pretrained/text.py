"""Embed texts with a sentence-transformers model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from semantic_ids.pretrained.cache import Missing, Vectors
from semantic_ids.pretrained.model_folder import check_files, content_of, device_of, loading, member, model_folder
from sidkit.core.errors import ConfigError, TableSchemaError
from sidkit.core.files import typed_path
from sidkit.core.section import Section

_EXTRA = "text"
_DEFAULT_COLUMNS = ("text", "title")
_ORGANISATION = "sentence-transformers"
_SPECIAL_TOKENS = 8
_TWO_POSITIONS_TAKEN = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})


class TextSpec(Section):
    """Configuration of a text embedding: model, input columns and limits."""

    model: str = Field(min_length=1)
    """A folder (needs no network), or a name on the hub; names without ``/`` belong to sentence-transformers."""
    revision: str | None = None
    """Commit, tag or branch on the hub; None is the newest."""
    columns: tuple[str, ...] = ()
    """Columns of ``items``; the first non-blank one is an item's text. Empty: ``text``, else ``title``."""
    prompt: str | None = None
    """Prepended to every text; None is the model's own default."""
    max_tokens: int | None = Field(default=None, ge=3)
    """Texts are truncated to this many tokens; None is the model's own limit."""
    batch_size: int = Field(default=64, ge=1)
    device: str = "auto"
    """``auto`` is the first available of cuda, mps and cpu."""


class TextEmbedder:
    """Embeds the texts of items.

    The vectors are ``float32`` of unit length and deterministic for the same set of texts. Batches are sorted by length,
    so their composition depends on which texts are new; this, like a different device or library version, changes a
    vector by rounding noise only (below 1e-5 per element).
    """

    loose = False
    """Whether columns that are no texts are read too, as texts."""

    def __init__(self, spec: TextSpec) -> None:
        self.spec = spec
        name = spec.model
        if "/" not in name and not typed_path(name).exists():
            name = f"{_ORGANISATION}/{name}"
        self.folder = model_folder(name, spec.revision, _EXTRA)
        check_files(self.folder, ("modules.json", "config.json"), "text")

    @property
    def group(self) -> int:
        """Number of texts that are sorted by length, embedded and cached together."""
        return 16 * self.spec.batch_size

    @property
    def identity(self) -> Mapping[str, Any]:
        """What determines the vectors besides the text: the model's files and the settings. Does not load the model."""
        return {
            "kind": "text",
            "model": content_of(self.folder),
            "prompt": self.spec.prompt,
            "max_tokens": self.spec.max_tokens,
        }

    def columns(self, available: Sequence[str]) -> tuple[str, ...]:
        """The columns of ``items`` to read.

        Raises
        ------
        TableSchemaError
            When they are missing.
        """
        if self.spec.columns:
            missing = [name for name in self.spec.columns if name not in available]
            if missing:
                raise TableSchemaError(
                    "items", f"column {', '.join(map(repr, missing))} is missing; the table has {', '.join(available)}"
                )
            return self.spec.columns
        defaults = tuple(name for name in _DEFAULT_COLUMNS if name in available)
        if not defaults:
            raise TableSchemaError(
                "items",
                f"columns 'text' and 'title' are missing; the table has {', '.join(available)}. Set the columns to read",
            )
        return defaults

    def contents(self, rows: pa.Table) -> list[str | Missing]:
        """The text of each row: the first non-blank column, stripped."""
        empty = Missing("no text")
        columns = [rows.column(name).to_pylist() for name in self.columns(rows.column_names)]
        return [
            next(filter(None, (text and text.strip() for text in texts)), empty) for texts in zip(*columns, strict=True)
        ]

    def key(self, content: str) -> bytes | Missing:
        """SHA-256 of a text."""
        return hashlib.sha256(content.encode()).digest()

    def vectors(self, contents: Sequence[str], keys: Sequence[bytes]) -> Vectors:
        """Embed texts.

        Parameters
        ----------
        contents : sequence of str
            Texts, none blank.
        keys : sequence of bytes
            Their keys.

        Returns
        -------
        Vectors
            ``float32 [texts, width]``, and which texts were truncated.

        Raises
        ------
        ConfigError
            When the model cannot be loaded, or the device is out of memory.
        """
        import torch

        try:
            matrix = self._model.encode(
                list(contents),
                prompt=self._prompt or None,
                batch_size=self.spec.batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
                normalize_embeddings=True,
            )
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"a batch of {self.spec.batch_size} texts does not fit in device memory ({error}); lower batch_size"
            ) from error
        return Vectors(np.asarray(matrix, dtype=np.float32), self._cut(contents), [None] * len(contents), self._limit)

    @property
    def _limit(self) -> int | None:
        limit = self._model.max_seq_length
        return None if limit is None else int(limit)

    @cached_property
    def _model(self) -> Any:
        build = member("sentence_transformers", "SentenceTransformer", _EXTRA)
        device = device_of(self.spec.device)
        with loading(self.folder, "text"):
            model = build(
                str(self.folder), device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
            ).eval()
        if self.spec.max_tokens is not None:
            config = getattr(getattr(model[0], "auto_model", None), "config", None)
            longest = getattr(config, "max_position_embeddings", None)
            if longest is not None and getattr(config, "model_type", None) in _TWO_POSITIONS_TAKEN:
                longest -= 2
            if longest is not None and self.spec.max_tokens > longest:
                raise ConfigError(
                    f"max_tokens must be at most {longest}, the limit of the model in {self.folder}, got "
                    f"{self.spec.max_tokens}"
                )
            model.max_seq_length = self.spec.max_tokens
        return model

    @property
    def _prompt(self) -> str:
        if self.spec.prompt is not None:
            return self.spec.prompt
        return str(self._model.prompts.get(self._model.default_prompt_name or "", None) or "")

    def _cut(self, contents: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        cut = np.zeros(len(contents), dtype=np.bool_)
        limit = self._limit
        if limit is None:
            return cut
        # A token has at least one byte, so only texts with more bytes than the limit need tokenizing.
        room = limit - len(self._prompt.encode()) - _SPECIAL_TOKENS
        long = [place for place, text in enumerate(contents) if len(text.encode()) > room]
        if long:
            texts = [self._prompt + contents[place] for place in long]
            counted = self._model.tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]
            cut[long] = [len(tokens) > limit for tokens in counted]
        return cut
