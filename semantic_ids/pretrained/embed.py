"""Embed the items of a source and write ``item_embeddings.parquet``."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from semantic_ids.pretrained.attributes import AttributeEmbedder, AttributeSpec
from semantic_ids.pretrained.cache import CachedVector, Missing, VectorCache
from semantic_ids.pretrained.embeddings_file import older_columns, scratch_beside, write_embeddings
from semantic_ids.pretrained.image import ImageEmbedder, ImageSpec
from semantic_ids.pretrained.items import Items
from semantic_ids.pretrained.kg_text import KgTextEmbedder, KgTextSpec
from semantic_ids.pretrained.text import TextEmbedder, TextSpec
from sidkit.core.config import EngineSettings, SourceSettings
from sidkit.core.engine import connection
from sidkit.core.errors import ConfigError, ContractError
from sidkit.core.extras import require
from sidkit.core.files import written_beside

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called with the modality, the processed rows of ``items``, and the total (None if the source does not know it)."""

CHUNK_ROWS = 4096
_TEXT = ("sentence_transformers", "torch", "safetensors")
_IMAGE = ("transformers", "PIL", "torch", "safetensors")
Spec: TypeAlias = TextSpec | ImageSpec | AttributeSpec
"""What vectors of a modality are made of; a :class:`~semantic_ids.pretrained.kg_text.KgTextSpec` is a text."""


@dataclass(frozen=True)
class ModalityReport:
    """Counts of one modality; ``embedded + from_cache + sum(missing)`` is ``rows``."""

    modality: str
    model: str
    """The folder of the model; ``attributes`` without one."""
    width: int | None
    """Elements of a vector; None if there are no vectors."""
    rows: int
    """Valid rows of ``items``."""
    embedded: int
    """Rows whose content was run through the model."""
    from_cache: int
    """Rows whose vector came from an earlier run or an earlier row with the same content."""
    missing: Mapping[str, int]
    """Rows without a vector, by reason."""
    max_tokens: int | None
    """Token limit of texts; None for images and for models without a limit."""
    cut: int
    """Rows whose text was truncated."""
    seconds: float


@dataclass(frozen=True)
class EmbedReport:
    """Result of :func:`embed_items`."""

    out: Path
    rows: int
    """Rows of the file."""
    refused: Mapping[str, int]
    """Invalid rows of ``items``, which are not in the file, by reason."""
    carried_over: tuple[str, ...]
    """Columns carried over from the existing file."""
    modalities: Mapping[str, ModalityReport]
    seconds: float


def embed_items(
    source: str | Path,
    out: Path,
    specs: Mapping[str, Spec],
    cache: Path,
    *,
    progress: Progress | None = None,
    chunk_rows: int = CHUNK_ROWS,
    engine: EngineSettings | None = None,
) -> EmbedReport:
    """Embed the texts and images of items and write ``item_embeddings.parquet``.

    Cached content is not embedded again, so a second run embeds nothing and an interrupted run resumes. Memory is bounded
    by the chunk, the batch and the models.

    Parameters
    ----------
    source : str or Path
        A folder with ``items.parquet``, or a SQLAlchemy URL; other tables are not required.
    out : Path
        A ``.parquet`` file, or the folder for ``item_embeddings.parquet``; often the source's folder itself. Other columns
        of an existing file are carried over; the file is replaced atomically at the end.
    specs : mapping
        Configuration by modality name (a column of ``list<float32>``, null where an item lacks it).
    cache : Path
        Folder with one cache file per model and settings.
    progress : callable, optional
        See :data:`Progress`.
    chunk_rows : int
        Rows of ``items`` read at a time.
    engine : EngineSettings, optional
        Threads and memory of the join with the older file.

    Returns
    -------
    EmbedReport
        Counts per modality, with the reasons for missing vectors.

    Raises
    ------
    ConfigError
        When an extra cannot be imported, or a model or image folder is missing or unusable.
    MissingExtraError
        When an extra is not installed; nothing has been written then.
    ContractError
        When ``items`` or an existing ``out`` cannot be used.
    ArtifactError
        When a cache file is damaged, or another run is writing ``out``.
    StorageError
        When writing fails; ``out`` is then unchanged, and the new vectors are in the cache.
    """
    started = time.monotonic()
    _check_names(specs)
    for spec in specs.values():
        if not isinstance(spec, AttributeSpec):
            extra, modules = ("text", _TEXT) if isinstance(spec, TextSpec) else ("image", _IMAGE)
            require(*modules, purpose=f"this {extra} model", extra=extra)
    out = out if out.suffix == ".parquet" else out / "item_embeddings.parquet"
    items = Items(str(source))
    with contextlib.ExitStack() as stack:
        works = []
        for name, spec in specs.items():
            embedder = _embedder(spec, items)
            embedder.columns(items.columns)
            works.append(_Work(name, embedder, stack.enter_context(VectorCache(cache, embedder.identity))))
        scratch = stack.enter_context(scratch_beside(out))
        older = older_columns(out, tuple(specs))
        staged = scratch / "new.parquet"
        _stage(items, works, staged, chunk_rows, progress or (lambda *_: None))
        opened = stack.enter_context(connection(engine or EngineSettings(), scratch / "spill"))
        rows = write_embeddings(opened, staged, out, tuple(specs), older)
        reports = {work.name: work.report() for work in works}
    return EmbedReport(out, rows, dict(items.refused), older, reports, time.monotonic() - started)


def _embedder(spec: Spec, items: Items) -> TextEmbedder | ImageEmbedder | AttributeEmbedder:
    if isinstance(spec, AttributeSpec):
        return AttributeEmbedder(spec)
    if isinstance(spec, ImageSpec):
        return ImageEmbedder(spec, items.folder)
    return KgTextEmbedder(spec) if isinstance(spec, KgTextSpec) else TextEmbedder(spec)


@dataclass
class _Work:
    """One modality in progress, and its counts."""

    name: str
    embedder: Any  # embedders have the same methods over texts, paths and attributes
    cache: VectorCache
    rows: int = 0
    embedded: int = 0
    from_cache: int = 0
    cut: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def vectors(self, rows: pa.Table, on_embedded: Callable[[int], None]) -> pa.Array:
        """The ``list<float32>`` of a chunk, null where a row has no vector."""
        started = time.monotonic()
        contents = self.embedder.contents(rows)
        keys = [content if isinstance(content, Missing) else self.embedder.key(content) for content in contents]
        known = self.cache.get([key for key in keys if isinstance(key, bytes)])
        news = {key: content for key, content in zip(keys, contents, strict=True) if key not in known}
        to_embed = {key: content for key, content in news.items() if isinstance(key, bytes)}
        failed = self._embed(to_embed, known, on_embedded)
        fresh = set(news) - set(failed)
        vectors: list[CachedVector | None] = []
        for key in keys:
            key_or_reason = failed.get(key, key) if isinstance(key, bytes) else key
            if isinstance(key_or_reason, Missing):
                self.missing[key_or_reason.reason] += 1
                vectors.append(None)
                continue
            vectors.append(known[key_or_reason])
            self.cut += known[key_or_reason].cut
            if key_or_reason in fresh:
                fresh.discard(key_or_reason)
                self.embedded += 1
            else:
                self.from_cache += 1
        self.rows += len(keys)
        self.seconds += time.monotonic() - started
        return _list_array(vectors)

    def _embed(
        self, news: Mapping[bytes, Any], known: dict[bytes, CachedVector], on_embedded: Callable[[int], None]
    ) -> dict[bytes, Missing]:
        """Embed new contents group by group into the cache and ``known``; returns the reasons of failures."""
        failed: dict[bytes, Missing] = {}
        keys = list(news)
        for start in range(0, len(keys), self.embedder.group):
            part = keys[start : start + self.embedder.group]
            made = self.embedder.vectors([news[key] for key in part], part)
            finite = np.isfinite(made.matrix).all(axis=1)
            good = []
            for place, key in enumerate(part):
                if made.missing[place] is not None:
                    failed[key] = made.missing[place]
                elif not finite[place]:
                    failed[key] = Missing("the model's vector is not finite")
                else:
                    good.append(place)
                    known[key] = CachedVector(made.matrix[place], bool(made.cut[place]))
            self.cache.put([part[place] for place in good], made.matrix[good], made.cut[good], made.max_tokens)
            on_embedded(start + len(part))
        return failed

    def report(self) -> ModalityReport:
        return ModalityReport(
            modality=self.name,
            model=str(self.embedder.folder),
            width=self.cache.width,
            rows=self.rows,
            embedded=self.embedded,
            from_cache=self.from_cache,
            missing=dict(self.missing.most_common()),
            max_tokens=self.cache.max_tokens,
            cut=self.cut,
            seconds=self.seconds,
        )


def _stage(items: Items, works: list[_Work], staged: Path, chunk_rows: int, progress: Progress) -> None:
    """Write the vectors of all rows, in source order."""
    texts = tuple(dict.fromkeys(name for work in works for name in work.embedder.columns(items.columns)))
    loose = {name for work in works if work.embedder.loose for name in work.embedder.columns(items.columns)}
    keys = ["item_id", *(["updated_at"] if items.versioned else [])]
    done = 0
    with written_beside(staged) as temporary, contextlib.ExitStack() as stack:
        writer = None
        for rows in items.chunks(texts, chunk_rows, loose):
            chunk = rows.select(keys)
            for work in works:
                # Progress counts embedded contents within the chunk, then jumps to its end: not all rows are new.
                def on_embedded(embedded: int, name: str = work.name, before: int = done) -> None:
                    progress(name, before + embedded, items.rows)

                chunk = chunk.append_column(work.name, work.vectors(rows, on_embedded))
                progress(work.name, done + rows.num_rows, items.rows)
            writer = writer or stack.enter_context(pq.ParquetWriter(temporary, chunk.schema))
            writer.write_table(chunk)
            done += rows.num_rows
        if not done:
            reasons = dict(items.refused) or "it is empty"
            raise ContractError("items", f"the table has no valid rows ({reasons}); fix the source data")
    for work in works:
        progress(work.name, items.rows or done, items.rows)


def _list_array(vectors: list[CachedVector | None]) -> pa.Array:
    lengths = np.fromiter((0 if cached is None else len(cached.vector) for cached in vectors), np.int64, len(vectors))
    flat = [cached.vector for cached in vectors if cached is not None]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(np.concatenate(flat) if flat else np.zeros(0, np.float32), pa.float32()),
        mask=pa.array([cached is None for cached in vectors], pa.bool_()),
    )


def _check_names(specs: Mapping[str, Spec]) -> None:
    if not specs:
        raise ConfigError(
            "expected at least one modality to embed, got none; pass a text or an image model, or attributes"
        )
    try:
        SourceSettings(modalities=tuple(specs))
    except ValidationError as error:
        raise ConfigError(f"modalities: {error.errors()[0]['msg']}") from error
