"""Golden rows: features and offline scores of some rows, stored once, with which every loaded model is compared.

A file holds the features as the offline model read them, so later changes of the tables or the online store do not matter.
"""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ranking.data.coded import Coded
from ranking.data.dataset import Dataset, LabelledRows, read_rows
from ranking.data.frame_builder import build_dataset
from ranking.data.item_table import ItemTable
from sidkit.core.errors import ArtifactCorruptError, ServingError, StorageError
from sidkit.core.files import written_beside

if TYPE_CHECKING:
    from collections.abc import Callable

    from ranking.serving.scorer import Scorer
    from sidkit.core.repo import Repo

GOLDEN_ROWS = 64
TOLERANCE = 1e-5
"""Largest difference of probabilities between the offline model and a loaded one."""


def golden_path(repo: Repo, ranker: str, content_hash: str) -> Path:
    """The file of a ranker's golden rows (``data/serving``)."""
    return repo.data / "serving" / f"golden_{ranker}_{content_hash[:16]}.npz"


def golden_rows(repo: Repo, scorer: Scorer) -> Dataset:
    """The features of labelled rows, spread over the log, by point-in-time retrieval.

    Raises
    ------
    ServingError
        When the repository has no labelled rows.
    """
    if not repo.labelled_rows.is_file():
        raise ServingError(
            "expected labelled rows, of which some are compared with the offline model, got none; write them with `sidkit "
            "tables rows`"
        )
    config = scorer.ranker.config
    rows = read_rows(repo.labelled_rows, context=config.schema.context)
    index = np.unique(np.linspace(0, len(rows) - 1, min(GOLDEN_ROWS, len(rows))).astype(np.int64))
    return build_dataset(
        scorer.store,
        scorer.record.service,
        scorer.codebook,
        rows.take(index),
        rate=scorer.ranker.smoothing_rate,
        history_length=config.history_length,
        schema=config.schema,
        vectors=config.vectors,
    )


def write_golden(path: Path, data: Dataset, scores: npt.NDArray[np.float64]) -> None:
    """Write golden rows: one ``.npz`` file, readable with ``numpy.load`` without pickles."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "scores": scores,
        "user_ids": data.rows.user_ids.astype(str),
        "item_ids": data.rows.item_ids.astype(str),
        "at_us": data.rows.at_us,
        **_request_ids(data.rows),
        "numeric": data.numeric,
        "candidate": data.candidate,
        "history": data.history,
        "history_items": data.history_items,
        "history_us": data.history_us,
        "items_ids": data.items.ids.astype(str),
        "items_codes": data.items.codes,
        "items_content": data.items.content,
        **_coded_arrays("attributes", data.items.attributes),
        **_coded_arrays("coded", data.coded),
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def read_golden(path: Path, scorer: Scorer) -> tuple[Dataset, npt.NDArray[np.float64]]:
    """Read the rows of :func:`write_golden` and their offline scores ``float64 [rows]``.

    Raises
    ------
    ArtifactCorruptError
        When the file cannot be read.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
        rows = LabelledRows(
            held["user_ids"].astype(object),
            held["item_ids"].astype(object),
            held["at_us"],
            np.zeros(len(held["at_us"]), np.int8),
            held["request_ids"].astype(object) if "request_ids" in held else None,
        )
        items = ItemTable(
            held["items_ids"].astype(object),
            held["items_codes"],
            held["items_content"],
            _coded(held, "attributes"),
            scorer.ranker.config.vectors,
        )
        data = Dataset(
            rows,
            held["numeric"],
            held["candidate"],
            held["history"],
            held["history_items"],
            held["history_us"],
            items,
            scorer.ranker.config.schema,
            _coded(held, "coded"),
        )
        return data, held["scores"]
    except (OSError, KeyError, ValueError, EOFError, BadZipFile, pa.ArrowException) as error:
        raise ArtifactCorruptError(
            path, f"cannot be read ({type(error).__name__}: {error})", "delete the file; it is written again"
        ) from error


def check_golden(
    repo: Repo, scorer: Scorer, score: Callable[[Dataset], npt.NDArray[np.float64]] | None = None
) -> float:
    """Compare a loaded model with the stored golden rows; they are stored first if they are missing.

    Parameters
    ----------
    repo : Repo
        The repository.
    scorer : Scorer
        The loaded model.
    score : callable, optional
        Another way to score a dataset, such as an exported model; default: the scorer's.

    Returns
    -------
    float
        The largest difference of probabilities.

    Raises
    ------
    ServingError
        When it exceeds :data:`TOLERANCE`.
    ArtifactCorruptError
        When the stored rows cannot be read.
    """
    path = golden_path(repo, scorer.record.name, scorer.record.content_hash)
    if path.exists():
        data, expected = read_golden(path, scorer)
    else:
        data = golden_rows(repo, scorer)
        expected = scorer.ranker.score(data)
        with suppress(OSError, StorageError):  # in a read-only repository they are made again at the next load
            write_golden(path, data, expected)
    scores = (score or scorer.ranker.score)(data)
    difference = float(np.abs(scores - expected).max(initial=0.0))
    if not difference <= TOLERANCE:
        raise ServingError(
            f"expected scores of ranker {scorer.record.name} within {TOLERANCE:g} of the offline model on {len(data)} golden "
            f"rows, got a difference of {difference:.3g}; use the library versions of the training, or train the ranker again"
        )
    return difference


def _request_ids(rows: LabelledRows) -> dict[str, npt.NDArray[Any]]:
    """The request of each row, where a ranker may score the rows of a request together; empty text without one."""
    if rows.request_ids is None:
        return {}
    return {"request_ids": np.where(pd.isna(rows.request_ids), "", rows.request_ids).astype(str)}


def _coded_arrays(stem: str, coded: Coded | None) -> dict[str, npt.NDArray[Any]]:
    if coded is None:
        return {}
    arrays: dict[str, npt.NDArray[Any]] = {f"{stem}_codes": coded.codes}
    for at, values in enumerate(coded.values):
        sink = pa.BufferOutputStream()
        table = pa.table({"values": values})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        arrays[f"{stem}_values_{at}"] = np.frombuffer(sink.getvalue(), dtype=np.uint8)
    return arrays


def _coded(held: dict[str, npt.NDArray[Any]], stem: str) -> Coded | None:
    if f"{stem}_codes" not in held:
        return None
    codes = held[f"{stem}_codes"]
    values = []
    for at in range(codes.shape[1]):
        table = pa.ipc.open_stream(pa.py_buffer(held[f"{stem}_values_{at}"].tobytes())).read_all()
        values.append(table.column("values").combine_chunks())
    return Coded(codes, tuple(values))
