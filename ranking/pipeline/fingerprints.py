"""Fingerprints of what the first stages read: the source, the content and the clicks."""

from __future__ import annotations

from typing import Any

import numpy as np

from sidkit.core.clock import present_us
from sidkit.core.engine import connection, literal, quoted
from sidkit.core.integrity import checked
from sidkit.core.repo import Repo
from sidkit.tables import must_read_again, read_log


def source_mark(repo: Repo) -> Any:
    """What determines an ingest besides the time: the settings of the source, and its fingerprint."""
    from sidkit.contract import open_source

    source = open_source(repo.settings.source.url, repo.settings.source)
    mark = source.fingerprint()
    # A database has no fingerprint, so it is always read.
    read_again = mark is None or must_read_again(repo, present_us())
    context = dict(repo.settings.features.context)
    return [
        repo.settings.source.model_dump(mode="json", exclude={"url"}),
        np.random.default_rng().random() if read_again else mark,
        *([context] if context else []),
    ]


def content_mark(repo: Repo, until_us: int) -> str:
    """Fingerprint of the content known at a time."""
    columns = ", ".join(quoted(name) for name in repo.settings.source.content_vectors)
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        row = opened.execute(
            f"SELECT count(*), bit_xor(hash(item_id, event_timestamp, {columns})) "
            f"FROM read_parquet({literal(checked(repo.tables / 'item_content.parquet'))}) "
            f"WHERE epoch_us(event_timestamp) <= {until_us}"
        ).fetchone()
    return str(row)


def behaviour_mark(repo: Repo, until_us: int) -> str:
    """Fingerprint of the clicks known at a time."""
    parts = ", ".join(literal(part) for part in read_log(repo).parts)
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        row = opened.execute(
            f"SELECT count(*), sum(hash(user_id, item_id, timestamp)::HUGEINT) FROM read_parquet([{parts}]) "
            f"WHERE label = 1 AND epoch_us(timestamp) + {repo.settings.time.delay_us} <= {until_us}"
        ).fetchone()
    return str(row)
