"""Texts to vectors with a sentence-transformers model."""

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
from sidkit.core.config import Section
from sidkit.core.errors import ConfigError, TableSchemaError
from sidkit.core.files import typed_path

_EXTRA = "text"
_DEFAULT_COLUMNS = ("text", "title")
_ORGANISATION = "sentence-transformers"
_SPECIAL_TOKENS = 8
_TWO_POSITIONS_TAKEN = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})


class TextSpec(Section):
    """Which text becomes a vector, and by which model."""

    model: str = Field(min_length=1)
    """A folder (never looked up anywhere), or a name on the hub; a name without ``/`` is of sentence-transformers."""
    revision: str | None = None
    """Commit, tag or branch of a name; None is the newest."""
    columns: tuple[str, ...] = ()
    """Columns of ``items``: the first that is not blank is an item's text. Empty: ``text``, else ``title``."""
    prompt: str | None = None
    """Put before every text; None is the model's own default."""
    max_tokens: int | None = Field(default=None, ge=3)
    """Texts are cut after so many tokens; None is the model's own limit."""
    batch_size: int = Field(default=64, ge=1)
    device: str = "auto"
    """``auto`` is the first of cuda, mps and cpu that is there."""


class TextEmbedder:
    """The texts of items and their vectors.

    The vectors are ``float32``, of length 1, and the same on each run over the same texts. Batches are sorted by
    length, so a text's neighbours in its batch depend on what else is new; they move a vector by float noise only
    (below 1e-5 per element in ``float32``), as do other devices and library versions.
    """

    def __init__(self, spec: TextSpec) -> None:
        self.spec = spec
        name = spec.model
        if "/" not in name and not typed_path(name).exists():
            name = f"{_ORGANISATION}/{name}"
        self.folder = model_folder(name, spec.revision, _EXTRA)
        check_files(self.folder, ("modules.json", "config.json"), "text")

    @property
    def group(self) -> int:
        """How many texts are sorted by length, embedded and kept at once."""
        return 16 * self.spec.batch_size

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """What decides the vectors, besides the text: the model's files and the settings. Found without loading it."""
        return {
            "kind": "text",
            "model": content_of(self.folder),
            "prompt": self.spec.prompt,
            "max_tokens": self.spec.max_tokens,
        }

    def columns(self, found: Sequence[str]) -> tuple[str, ...]:
        """The columns of ``items`` that are needed.

        Raises
        ------
        TableSchemaError
            When they are not there.
        """
        if self.spec.columns:
            missing = [name for name in self.spec.columns if name not in found]
            if missing:
                raise TableSchemaError(
                    "items", f"column {', '.join(map(repr, missing))} is missing; the table has {', '.join(found)}"
                )
            return self.spec.columns
        there = tuple(name for name in _DEFAULT_COLUMNS if name in found)
        if not there:
            raise TableSchemaError(
                "items",
                f"neither 'text' nor 'title' is there; the table has {', '.join(found)}. Name the columns to read",
            )
        return there

    def contents(self, rows: pa.Table) -> list[str | Missing]:
        """The text of each row: the first column that is not blank, without the blanks around it."""
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
            ``float32 [texts, width]``, and which texts were cut.

        Raises
        ------
        ConfigError
            When the model cannot be loaded, or the device has too little memory.
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
                f"a batch of {self.spec.batch_size} texts does not fit the device ({error}); lower batch_size"
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
                    f"max_tokens is {self.spec.max_tokens} and the model in {self.folder} reads at most {longest}; "
                    f"set max_tokens to {longest} or less"
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
        # A token has at least one byte: only texts with more bytes than the limit need to be counted.
        room = limit - len(self._prompt.encode()) - _SPECIAL_TOKENS
        long = [place for place, text in enumerate(contents) if len(text.encode()) > room]
        if long:
            texts = [self._prompt + contents[place] for place in long]
            counted = self._model.tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]
            cut[long] = [len(tokens) > limit for tokens in counted]
        return cut
