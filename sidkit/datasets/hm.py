"""H&M Personalized Fashion Recommendations: purchases of fashion articles."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import duckdb

from sidkit.core.config import Feedback
from sidkit.core.engine import quoted
from sidkit.datasets.published import PublishedDataset, copies
from sidkit.datasets.raw_files import delimited, found

_NAMES = (
    "product_code", "product_group_name", "graphical_appearance_name", "colour_group_name",
    "perceived_colour_value_name", "perceived_colour_master_name", "department_name", "index_name", "index_group_name",
    "section_name", "garment_group_name",
)  # fmt: skip


class HM(PublishedDataset):
    """Purchases of H&M customers: ``hm:PATH``.

    PATH holds ``transactions_train.csv``, ``articles.csv`` and ``customers.csv``. A purchase has a date and no time of day: it
    is read as midnight UTC of this date. Ids are texts; those of articles begin with 0.

    - ``label``: always 1. Negatives are sampled. Several pieces of an article that a customer bought on a day are one
      interaction.
    - Context of an interaction: ``sales_channel`` (``store`` or ``online``).
    - ``created_at``: the first purchase of the article.
    - Items: ``title``, ``category`` (the product type), ``product_code``, and the names of group, colour, appearance,
      department, index, section and garment group, and ``text`` (title and description) for embedding. ``price`` is that of
      the first purchase, in the publisher's own unit: later prices would know the future.
    - ``users``: ``age`` (years), ``club_member_status``, ``fashion_news_frequency``, ``postal_code`` (a hash). They are one
      snapshot per customer without a date, at or after the end of the log; status and frequency may know the future.
    - Left out: articles without a purchase; the customers' flags ``FN`` and ``Active``, of which there is no description.

    Terms: the rules of the Kaggle competition "H&M Personalized Fashion Recommendations" (non-commercial use). Citation: C.
    Garcia Ling et al., "H&M Personalized Fashion Recommendations", Kaggle, 2022.
    """

    name: ClassVar[str] = "hm"
    feedback: Feedback = "positives_only"

    def interactions(self) -> str:
        """See :meth:`PublishedDataset.interactions`."""
        return f"""
            SELECT customer_id AS user_id, article_id AS item_id,
                   TRY_CAST(t_dat AS TIMESTAMP) AT TIME ZONE 'UTC' AS timestamp, 1::TINYINT AS label,
                   CASE min(sales_channel_id) WHEN '1' THEN 'store' WHEN '2' THEN 'online' END AS sales_channel
            FROM ({self._transactions()}) GROUP BY t_dat, customer_id, article_id"""

    def left_out(self, opened: duckdb.DuckDBPyConnection, interactions: Path) -> dict[str, int]:
        """See :meth:`PublishedDataset.left_out`."""
        return {"a further piece of a purchase": copies(opened, self._transactions(), interactions)}

    def items(self) -> str:
        """See :meth:`PublishedDataset.items`."""
        needed = ("article_id", "prod_name", "detail_desc", "product_type_name", *_NAMES)
        files = found(self.folder, ("articles.csv", "articles.csv.gz"), "items", "the articles")
        return f"""
            WITH first_price AS (
                SELECT article_id, arg_min(TRY_CAST(price AS FLOAT), t_dat) AS price FROM ({self._transactions()}) GROUP BY 1
            )
            SELECT article_id AS item_id, NULL::TIMESTAMPTZ AS published_at, prod_name AS title,
                   product_type_name AS category, {", ".join(map(quoted, _NAMES))}, price,
                   concat_ws('. ', prod_name, detail_desc) AS text
            FROM ({delimited(files, needed, "items")}) LEFT JOIN first_price USING (article_id)"""

    def users(self) -> str | None:
        """See :meth:`PublishedDataset.users`."""
        needed = ("customer_id", "age", "club_member_status", "fashion_news_frequency", "postal_code")
        files = found(self.folder, ("customers.csv", "customers.csv.gz"), "users", "the customers")
        return f"""
            SELECT customer_id AS user_id, TRY_CAST(age AS DOUBLE)::SMALLINT AS age, club_member_status,
                   fashion_news_frequency, postal_code
            FROM ({delimited(files, needed, "users")})"""

    def _transactions(self) -> str:
        names = ("transactions_train.csv", "transactions_train.csv.gz")
        files = found(self.folder, names, "interactions", "the transactions")
        needed = ("t_dat", "customer_id", "article_id", "price", "sales_channel_id")
        return delimited(files, needed, "interactions")
