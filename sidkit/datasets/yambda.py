"""Yambda: plays and likes of Yandex Music, with audio vectors."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import duckdb
import pyarrow.parquet as pq

from sidkit.core.config import Feedback
from sidkit.core.engine import literal
from sidkit.core.errors import TableSchemaError
from sidkit.datasets.published import PublishedDataset
from sidkit.datasets.raw_files import found

_ORIGIN_US = 1_704_067_200_000_000  # 2024-01-01T00:00:00Z
_PLAYED_PERCENT = 50
_LISTENS, _LIKES, _VECTORS = "listens.parquet", "likes.parquet", "embeddings.parquet"
_NEEDED = {
    _LISTENS: ("uid", "item_id", "timestamp", "is_organic", "played_ratio_pct", "track_length_seconds"),
    _LIKES: ("uid", "item_id", "timestamp", "is_organic"),
    _VECTORS: ("item_id", "embed"),
}


class Yambda(PublishedDataset):
    """Plays of Yandex Music: ``yambda:PATH``.

    PATH is a folder of the flat layout with ``listens.parquet``, such as ``flat/50m``, or the file ``likes.parquet`` of one.
    ``embeddings.parquet``, ``artist_item_mapping.parquet`` and ``album_item_mapping.parquet`` are looked for in this folder and
    in the two folders above it. Published times are seconds since a hidden day, in steps of 5 seconds; they are shifted
    to 2024-01-01 UTC, so differences are right, and dates and hours are not.

    - ``label``: 1 if at least 50 % of the track was played (the threshold of the authors' benchmark), else 0. With
      ``likes.parquet``: always 1, and negatives are sampled.
    - Context of an interaction: ``is_organic`` (1 if the user chose the track, 0 if it was recommended).
    - ``created_at``: the first event of the track.
    - Items: ``duration_seconds`` (plays only), ``artists`` and ``albums`` (lists of ids).
    - Vectors: ``audio`` (the published ``embed``), for the tracks of the log.
    - Left out: dislikes, unlikes and undislikes; vectors of tracks that are not in the log.

    Terms: Apache License 2.0 (the data set's page, "Yambda-5B"). Citation: A. Ploshkin et al., "Yambda-5B: A Large-Scale
    Multi-modal Dataset for Ranking And Retrieval", arXiv 2505.22238, 2025.
    """

    name: ClassVar[str] = "yambda"
    modalities: tuple[str, ...] = ("audio",)

    def __init__(self, variant: str = "") -> None:
        super().__init__(variant)
        self._likes = self.folder.is_file() and self.folder.name == _LIKES
        self.feedback: Feedback = "positives_only" if self._likes else "impressions"

    def interactions(self) -> str:
        """See :meth:`PublishedDataset.interactions`."""
        label = "1" if self._likes else f"played_ratio_pct >= {_PLAYED_PERCENT}"
        return f"""
            SELECT uid::VARCHAR AS user_id, item_id::VARCHAR AS item_id,
                   make_timestamptz({_ORIGIN_US} + timestamp::BIGINT * 1000000) AS timestamp, ({label})::TINYINT AS label,
                   is_organic::TINYINT AS is_organic
            FROM {self._events()}"""

    def items(self) -> str:
        """See :meth:`PublishedDataset.items`."""
        length = "NULL" if self._likes else "max(track_length_seconds)"
        joined = [
            f"LEFT JOIN (SELECT item_id, list(DISTINCT {kind}_id::VARCHAR ORDER BY {kind}_id::VARCHAR) AS {kind}s "
            f"FROM read_parquet({literal(file)}) GROUP BY item_id) AS {kind} USING (item_id)"
            for kind, file in self._mappings().items()
        ]
        lists = "".join(f", coalesce({kind}s, []) AS {kind}s" for kind in self._mappings())
        duration = "" if self._likes else ", duration_seconds"
        return f"""
            WITH track AS (SELECT item_id, ({length})::FLOAT AS duration_seconds FROM {self._events()} GROUP BY item_id)
            SELECT item_id::VARCHAR AS item_id, NULL::TIMESTAMPTZ AS published_at{duration}{lists}
            FROM track {" ".join(joined)}"""

    def embeddings(self) -> str | None:
        """See :meth:`PublishedDataset.embeddings`."""
        file = self._near(_VECTORS)
        if not file.is_file():
            found(self._base, (_VECTORS,), "item_embeddings", "the audio vectors")
        return f"""
            SELECT item_id::VARCHAR AS item_id, embed::FLOAT[] AS audio FROM {self._relation(file)}
            WHERE item_id::VARCHAR IN (SELECT item_id FROM dated)"""

    def left_out(self, opened: duckdb.DuckDBPyConnection, interactions: Path) -> dict[str, int]:
        """See :meth:`PublishedDataset.left_out`."""
        named = {name: self._base / f"{name}.parquet" for name in ("dislikes", "unlikes", "undislikes")}
        return {f"a row of {name}": pq.read_metadata(file).num_rows for name, file in named.items() if file.is_file()}

    @property
    def _base(self) -> Path:
        return self.folder.parent if self.folder.is_file() else self.folder

    def _events(self) -> str:
        name = _LIKES if self._likes else _LISTENS
        (file,) = found(self._base, (name,), "interactions", "the events")
        return self._relation(file)

    def _relation(self, file: Path) -> str:
        present = pq.read_schema(file).names
        missing = [column for column in _NEEDED[file.name] if column not in present]
        if missing:
            raise TableSchemaError(
                "item_embeddings" if file.name == _VECTORS else "interactions",
                f"expected column {', '.join(map(repr, missing))} in {file}, got {', '.join(present)}; use the flat layout as "
                "published",
            )
        return f"read_parquet({literal(file)})"

    def _mappings(self) -> dict[str, Path]:
        named = {kind: self._near(f"{kind}_item_mapping.parquet") for kind in ("artist", "album")}
        return {kind: file for kind, file in named.items() if file.is_file()}

    def _near(self, name: str) -> Path:
        """The file in the folder of the events or one of the two above it."""
        places = [self._base, *list(self._base.parents)[:2]]
        return next((place / name for place in places if (place / name).is_file()), self._base / name)
