"""MIND: impressions and clicks of Microsoft News."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import duckdb

from sidkit.core.config import Feedback
from sidkit.core.engine import literal
from sidkit.datasets.published import PublishedDataset
from sidkit.datasets.raw_files import delimited, found

_BEHAVIORS = ("impression_id", "user_id", "time", "history", "impressions")
_NEWS = ("news_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
_TIME = "try_strptime(time, '%m/%d/%Y %I:%M:%S %p') AT TIME ZONE 'UTC'"
_SPLIT = "parse_filename(parse_dirpath(filename), true, 'both_slash')"


class Mind(PublishedDataset):
    """News impressions of Microsoft: ``mind:PATH``.

    PATH holds ``behaviors.tsv`` and ``news.tsv``, or folders that hold them, such as ``MINDsmall_train`` and
    ``MINDsmall_dev``. Times have no zone and are read as UTC.

    - ``label``: 1 for a clicked candidate, 0 for one that was shown and not clicked. The candidates of an impression have one
      ``request_id`` (folder and impression id). Their published order is shuffled, so there is no ``position``.
    - ``created_at``: the first impression in which the news appears, as a candidate or in the history of its user; when news
      was published is not part of the data set.
    - Items: ``title``, ``category``, ``subcategory``, ``text`` (title and abstract) for embedding, ``url``, and ``entities``
      (list of Wikidata ids of the title and the abstract).
    - Left out: clicks of the column ``history``, which have no time, so the first impressions have short histories; candidates
      without a label (the published test set); news that appear in no impression.

    Terms: Microsoft Research License Terms of the data set's page, "MIND: MIcrosoft News Dataset" (non-commercial research).
    Citation: F. Wu et al., "MIND: A Large-scale Dataset for News Recommendation", ACL 2020.
    """

    name: ClassVar[str] = "mind"
    feedback: Feedback = "impressions"

    def interactions(self) -> str:
        """See :meth:`PublishedDataset.interactions`."""
        return f"""
            WITH shown AS (
                SELECT user_id, {_TIME} AS timestamp, concat_ws('-', {_SPLIT}, impression_id) AS request_id,
                       unnest(string_split(impressions, ' ')) AS candidate
                FROM ({self._behaviors()})
            )
            SELECT user_id, regexp_replace(candidate, '-[01]$', '') AS item_id, timestamp,
                   TRY_CAST(right(candidate, 1) AS TINYINT) AS label, request_id
            FROM shown WHERE regexp_matches(candidate, '-[01]$')"""

    def appearances(self, interactions: Path) -> str:
        """See :meth:`PublishedDataset.appearances`."""
        return f"""
            WITH earlier AS (
                SELECT unnest(string_split(history, ' ')) AS item_id, {_TIME} AS timestamp
                FROM ({self._behaviors()}) WHERE history IS NOT NULL
            )
            SELECT item_id, min(timestamp) AS seen_at FROM (
                SELECT item_id, timestamp FROM read_parquet({literal(interactions)})
                UNION ALL SELECT item_id, timestamp FROM earlier
            ) WHERE timestamp IS NOT NULL AND item_id <> '' GROUP BY item_id"""

    def items(self) -> str:
        """See :meth:`PublishedDataset.items`."""
        files = found(self.folder, ("news.tsv", "*/news.tsv"), "items", "the news")
        news = delimited(files, (), "items", names=_NEWS, delimiter="\t")
        return f"""
            SELECT news_id AS item_id, NULL::TIMESTAMPTZ AS published_at, title, category, subcategory,
                   concat_ws('. ', title, abstract) AS text, url,
                   list_distinct(list_concat(
                       regexp_extract_all(title_entities, '"WikidataId": "(Q\\d+)"', 1),
                       regexp_extract_all(abstract_entities, '"WikidataId": "(Q\\d+)"', 1)
                   )).list_sort() AS entities
            FROM ({news})"""

    def left_out(self, opened: duckdb.DuckDBPyConnection, interactions: Path) -> dict[str, int]:
        """See :meth:`PublishedDataset.left_out`."""
        row = opened.execute(
            f"""SELECT count(*) FROM (SELECT unnest(string_split(impressions, ' ')) AS candidate FROM ({self._behaviors()}))
                WHERE NOT regexp_matches(candidate, '-[01]$')"""
        ).fetchone()
        return {"a candidate without a label": row[0] if row else 0}

    def _behaviors(self) -> str:
        files = found(self.folder, ("behaviors.tsv", "*/behaviors.tsv"), "interactions", "the impressions")
        return delimited(files, (), "interactions", names=_BEHAVIORS, delimiter="\t")
