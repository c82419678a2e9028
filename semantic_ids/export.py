"""Export the codes of the whole catalogue for other systems: Parquet, CSV, or a prefix trie in JSON.

The trie serves constrained decoding in generative retrieval: a decoder that has produced a prefix of codes may only continue
with a key of the node that the prefix leads to, so it never produces the codes of no item.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from semantic_ids.lookup import all_codes, published
from sidkit.core.engine import connection
from sidkit.core.errors import ConfigError
from sidkit.core.files import written_beside
from sidkit.core.repo import Repo

FORMATS = (".parquet", ".csv", ".json")
_GROUPS = 50_000


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote."""

    path: Path
    """The file."""
    items: int
    """Items with codes."""
    without_codes: int
    """Items without content, and so without codes: null in Parquet, empty in CSV, not in the trie."""
    distinct: int
    """Distinct codes."""
    colliding: int
    """Items that share all codes with another item."""


def export_codes(repo: Repo, path: Path, name: str | None = None) -> ExportReport:
    """Write the newest codes of all items, as of the feature tables, to a file that is replaced atomically.

    Parameters
    ----------
    repo : Repo
        With a published codebook.
    path : Path
        The suffix chooses the format. ``.parquet``: ``item_id`` and ``codes`` (list of int64), with the codebook's name, sizes
        and content hash in the metadata. ``.csv``: ``item_id`` and one column ``code_0``, ``code_1``, ... per level.
        ``.json``: nested objects, one level per code, whose keys are codes as text and whose leaves are lists of item ids;
        items with the same codes are in one list, and keys and ids are sorted.
    name : str, optional
        Codebook; by default the serving one.

    Raises
    ------
    ConfigError
        When the suffix is another one.
    UnknownVersionError
        When there is no such codebook, or none is serving.
    LifeCycleError
        When it is not published.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(
            f"expected a file that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, got {path.name!r}; rename it"
        )
    record = published(repo, name)
    codes = all_codes(repo, record.name)
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        opened.register("codes", codes)
        distinct, colliding = opened.execute(
            "SELECT count(*), coalesce(sum(items) FILTER (items > 1), 0)::BIGINT "
            "FROM (SELECT count(*) AS items FROM codes WHERE codes IS NOT NULL GROUP BY codes)"
        ).fetchone() or (0, 0)
        with written_beside(path) as temporary:
            if path.suffix.lower() == ".parquet":
                facts = {
                    "codebook": record.name,
                    "sizes": json.dumps(record.sizes),
                    "content_hash": record.content_hash,
                }
                pq.write_table(codes.replace_schema_metadata(facts), temporary, compression="zstd")
            elif path.suffix.lower() == ".csv":
                pyarrow.csv.write_csv(_one_column_per_level(codes, record.levels), temporary)
            else:
                groups = opened.execute(
                    "SELECT codes, list(item_id ORDER BY item_id) FROM codes WHERE codes IS NOT NULL GROUP BY codes "
                    "ORDER BY codes"
                )
                with temporary.open("w", encoding="utf-8") as file:
                    write_trie(file, iter(lambda: groups.fetchmany(_GROUPS), []))
    without = codes.column("codes").null_count
    return ExportReport(path, len(codes) - without, without, int(distinct), int(colliding))


def write_trie(file: TextIO, parts: Iterable[Sequence[tuple[Sequence[int], Sequence[str]]]]) -> None:
    """Write a trie as JSON, in one pass and in the memory of one part.

    Parameters
    ----------
    file : TextIO
        Opened for writing.
    parts : iterable of sequences
        Pairs of codes and item ids; all codes are distinct, of one length, and sorted over all parts.
    """
    before: Sequence[int] = ()
    file.write("{")
    for part in parts:
        for codes, items in part:
            shared = next(
                (level for level, pair in enumerate(zip(before, codes, strict=False)) if pair[0] != pair[1]), 0
            )
            if before:
                file.write("}" * (len(codes) - 1 - shared) + ",")
            file.write("".join(f'"{code}":{{' for code in codes[shared:-1]))
            file.write(f'"{codes[-1]}":{json.dumps(list(items), ensure_ascii=False)}')
            before = codes
    file.write("}" * max(len(before), 1) + "\n")


def _one_column_per_level(codes: pa.Table, levels: int) -> pa.Table:
    lists = codes.column("codes")
    columns = {f"code_{level}": pc.list_element(lists, level) for level in range(levels)}
    return pa.table({"item_id": codes.column("item_id"), **columns})
