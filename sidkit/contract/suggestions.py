"""Columns that a missing one may be called in the source, and the lines of ``sidkit.toml`` that say so."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from sidkit.contract.schemas import Table

_SYNONYMS: dict[str, tuple[str, ...]] = {
    "user_id": ("user", "userid", "uid", "customer_id", "customer", "customerid", "visitor_id", "visitorid", "member_id",
                "account_id", "client_id", "session_id", "profile_id", "viewer_id", "cust_id"),
    "item_id": ("item", "itemid", "iid", "product_id", "product", "productid", "sku", "asin", "article_id", "movie_id",
                "movieid", "video_id", "content_id", "track_id", "song_id", "book_id", "news_id", "listing_id", "stockcode",
                "ad_id", "id", "wine_id", "post_id", "document_id", "doc_id"),
    "timestamp": ("ts", "time", "event_time", "event_timestamp", "datetime", "date", "created_at", "occurred_at", "event_ts",
                  "unix_time", "unixtime", "time_stamp", "invoicedate", "event_date", "clicked_at", "viewed_at", "purchased_at",
                  "at", "when", "logged_at", "dt"),
    "label": ("clicked", "click", "is_click", "is_clicked", "target", "y", "positive", "is_positive", "liked", "purchased",
              "bought", "converted", "outcome", "response"),
    "created_at": ("created", "added", "added_at", "creation_date", "created_time", "create_time", "creation_time",
                   "published_at", "published", "publish_time", "release_date", "released_at", "listed_at", "first_seen",
                   "available_from", "date_added", "date", "upload_time", "uploaded_at", "launch_date"),
}  # fmt: skip
_RULES = {
    "rating": 'positive = "{0} >= 4"', "score": 'positive = "{0} >= 4"', "stars": 'positive = "{0} >= 4"',
    "event": 'column = "{0}"\nvalues = ["purchase"]', "event_type": 'column = "{0}"\nvalues = ["purchase"]',
    "action": 'column = "{0}"\nvalues = ["purchase"]', "behavior": 'column = "{0}"\nvalues = ["purchase"]',
    "type": 'column = "{0}"\nvalues = ["purchase"]', "watch_time": 'positive = "{0} > 0"', "duration": 'positive = "{0} > 0"',
}  # fmt: skip
"""Columns that give labels by a rule."""


def suggestion(missing: Sequence[str], names: Sequence[str], table: Table) -> str:
    """Lines for ``sidkit.toml`` that name the likely columns for the missing ones; empty if there are none.

    Parameters
    ----------
    missing : sequence of str
        Required columns that the table lacks.
    names : sequence of str
        Its columns.
    table : Table
        The contract's table.
    """
    free = [name for name in names if table.column(name) is None or name == "rating"]
    found: dict[str, str] = {}
    for column in missing:
        left = [name for name in free if name not in found.values() and name != "rating"]
        likely = _likely(column, left)
        if likely is not None:
            found[column] = likely
    lines = [f"[source.columns.{table.name}]"] if found else []
    lines += [f"{column} = {_quoted(name)}" for column, name in found.items()]
    if "label" in missing and "label" not in found:
        rule = next((name for name in free if name.lower() in _RULES), None)
        if rule is not None:
            lines += ["[source.label]", _RULES[rule.lower()].format(rule)]
    return "\n".join(lines)


def _likely(column: str, names: Sequence[str]) -> str | None:
    folded = {_folded(name): name for name in reversed(names)}
    for word in (column, *_SYNONYMS.get(column, ())):
        if _folded(word) in folded:
            return folded[_folded(word)]
    near = difflib.get_close_matches(_folded(column), list(folded), n=1, cutoff=0.75)
    return folded[near[0]] if near else None


def _folded(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
