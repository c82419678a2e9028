"""Amazon Reviews 2023: reviews and item metadata in JSON lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import duckdb

from sidkit.core.config import Feedback
from sidkit.datasets.published import PublishedDataset, copies
from sidkit.datasets.raw_files import found, json_lines

_REVIEWS = {"user_id": "VARCHAR", "parent_asin": "VARCHAR", "timestamp": "BIGINT", "rating": "FLOAT"}
_META = {
    "parent_asin": "VARCHAR", "title": "VARCHAR", "main_category": "VARCHAR", "categories": "VARCHAR[]", "store": "VARCHAR",
    "price": "VARCHAR", "features": "VARCHAR[]", "description": "VARCHAR[]", "details": "JSON",
}  # fmt: skip
_DATED = ("Date First Available", "Release Date", "Publication Date")


class AmazonReviews(PublishedDataset):
    """Product reviews of the McAuley Lab: ``amazon_reviews:PATH``.

    PATH holds the files of one or several categories, such as ``All_Beauty.jsonl`` and ``meta_All_Beauty.jsonl``, also
    packed (``.jsonl.gz``), in this folder or in ``review_categories/`` and ``meta_categories/`` below it. Times are
    milliseconds since 1970, UTC. An item is a product with all its variants (``parent_asin``).

    - ``label``: always 1, since a review shows interest in a product that was bought; ``rating`` has the stars. Negatives are
      sampled. Several reviews of one user, product and time are one interaction, with the highest rating.
    - ``created_at``: the date of the details ("Date First Available"), or the first review if it is missing or later.
    - Items: ``title``, ``category`` (the main category), ``categories`` (list), ``brand``, ``store``, ``price`` (US dollars,
      as of the crawl), and ``text`` (title, features, description) for embedding. Items without metadata have an id only.
    - Left out: ``average_rating`` and ``rating_number``, which count reviews up to the day of the crawl and so know the
      future of the log; texts and votes of reviews; items without a review or a date.

    Terms: those on the data set's page, "Amazon Reviews'23". Citation: Y. Hou, J. Li, Z. He, A. Yan, X. Chen and J. McAuley,
    "Bridging Language and Items for Retrieval and Recommendation", arXiv 2403.03952, 2024.
    """

    name: ClassVar[str] = "amazon_reviews"
    feedback: Feedback = "positives_only"

    def interactions(self) -> str:
        """See :meth:`PublishedDataset.interactions`."""
        return f"""
            SELECT user_id, parent_asin AS item_id, make_timestamptz(timestamp * 1000) AS timestamp, 1::TINYINT AS label,
                   max(rating) AS rating
            FROM ({self._reviews()}) GROUP BY user_id, parent_asin, timestamp"""

    def left_out(self, opened: duckdb.DuckDBPyConnection, interactions: Path) -> dict[str, int]:
        """See :meth:`PublishedDataset.left_out`."""
        return {"a further review of the same user, product and time": copies(opened, self._reviews(), interactions)}

    def items(self) -> str:
        """See :meth:`PublishedDataset.items`."""
        dates = ", ".join(f"details ->> '{name}'" for name in _DATED)
        return f"""
            SELECT parent_asin AS item_id,
                   try_strptime(coalesce({dates}), ['%B %d, %Y', '%b %d, %Y', '%Y-%m-%d']) AT TIME ZONE 'UTC' AS published_at,
                   title, main_category AS category, categories,
                   coalesce(details ->> 'Brand', details ->> 'Manufacturer') AS brand, store,
                   TRY_CAST(trim(price, '$ ') AS FLOAT) AS price,
                   concat_ws('. ', title, nullif(array_to_string(features, '. '), ''),
                             nullif(array_to_string(description, ' '), '')) AS text
            FROM ({json_lines(self._files("items", "item metadata", _is_meta), _META)})"""

    def _reviews(self) -> str:
        return json_lines(self._files("interactions", "reviews", _is_review), _REVIEWS)

    def _files(self, table: str, what: str, is_one: Callable[[Path], bool]) -> list[Path]:
        patterns = [f"{folder}*.jsonl{packed}" for folder in ("", "*_categories/") for packed in ("", ".gz")]
        chosen = [file for pattern in patterns for file in sorted(self.folder.glob(pattern)) if is_one(file)]
        return chosen or found(self.folder, ("CATEGORY.jsonl", "meta_CATEGORY.jsonl"), table, f"the {what}")


def _is_meta(file: Path) -> bool:
    return file.name.startswith("meta_")


def _is_review(file: Path) -> bool:
    return not _is_meta(file)
