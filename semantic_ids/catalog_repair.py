"""Recreate damaged or lost catalogue records from the artefacts.

An artefact's manifest holds every column of its record except the state. If the record's hash survived, all states are
tried until the hash matches; the record is then exactly the original one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from semantic_ids.catalog import STATES, Catalog, table_path
from semantic_ids.catalog_engine import catalog_engine, catalog_url
from semantic_ids.catalog_tables import CHECK, CODEBOOKS, RANKERS, row_hash
from semantic_ids.codebook import Codebook
from semantic_ids.defined_codebooks import names_in
from sidkit.core.artifact import read_manifest
from sidkit.core.errors import ArtifactError, CatalogUnreachableError, PluginError
from sidkit.core.files import read_json
from sidkit.core.redact import scrubbed
from sidkit.core.repo import Repo
from sidkit.core.shared_artifacts import SharedArtifacts

Record = dict[str, Any]
_CONFIG = "config.json"


@dataclass(frozen=True)
class Repaired:
    """One recreated record; ``exact`` when its hash proves that it equals the original."""

    kind: str
    name: str
    state: str
    exact: bool

    def __str__(self) -> str:
        how = "verified by its hash" if self.exact else "recreated from its files; check its state"
        return f"{self.kind} {self.name}: {self.state}, {how}"


def repair_catalog(repo: Repo) -> list[Repaired]:
    """Recreate damaged and lost records.

    An unreadable SQLite file is renamed to ``<name>.damaged``. A lost codebook gets the state ``published`` if its view
    was defined, else ``fitted``; a lost ranker gets ``fitted``. Promote the ones that should serve.

    Raises
    ------
    CatalogUnreachableError
        When the database cannot be reached and is not a SQLite file of the repo.
    ArtifactError
        When the shared artefacts cannot be read.
    """
    shared = SharedArtifacts.of(repo)
    if shared is not None:
        shared.pull_unrecorded()
    catalog = _open(repo)
    done: list[Repaired] = []
    for table, kind, on_disk in (
        (CODEBOOKS, "codebook", _codebooks_on_disk(repo)),
        (RANKERS, "ranker", _rankers_on_disk(repo)),
    ):
        rows = catalog.unverified(table)
        records = {row["name"]: row for row in rows if row[CHECK] in {None, row_hash(table.name, row)}}
        damaged = [row for row in rows if records.get(row["name"]) is not row]
        for row in damaged:
            lost = {name: facts for name, facts in on_disk.items() if name not in records}
            recreated, exact = _recreate(repo, table, row, lost)
            records[recreated["name"]] = recreated
            done.append(Repaired(kind, recreated["name"], recreated["state"], exact))
        for name in sorted(on_disk.keys() - records.keys()):
            records[name] = {"name": name, "changed_at_us": _now(), **_guess_state(repo, table, name), **on_disk[name]}
            done.append(Repaired(kind, name, records[name]["state"], exact=False))
        if damaged or len(records) > len(rows):
            catalog.rewrite(table, list(records.values()))
    return done


def _now() -> int:
    return time.time_ns() // 1000


def _open(repo: Repo) -> Catalog:
    settings = repo.settings.catalog
    url = catalog_url(settings, repo.path)
    shown = url.render_as_string(hide_password=True)
    for is_retry in (False, True):
        catalog = Catalog(shown, catalog_engine(settings, url), repo)
        try:
            catalog.make_tables()
            for table in (CODEBOOKS, RANKERS):
                catalog.unverified(table)
        except (sa.exc.SQLAlchemyError, CatalogUnreachableError, ValueError) as error:
            file = Path(url.database or "")
            if is_retry or url.get_backend_name() != "sqlite" or not file.is_file():
                raise CatalogUnreachableError(catalog.url, scrubbed(error)) from None
            file.replace(f"{file}.damaged")
        else:
            break
    return catalog


def _codebooks_on_disk(repo: Repo) -> dict[str, Record]:
    """The records, without states, that the artefacts describe."""
    records = {}
    for folder in sorted(path for path in repo.codebooks.glob("[a-z]*") if path.is_dir()):
        try:
            manifest, codebook = read_manifest(folder), Codebook.load(folder)
        except (ArtifactError, PluginError):
            continue
        spec = manifest["spec"]
        records[folder.name] = {
            "content_hash": manifest["content_hash"],
            "quantizer": spec["quantizer"],
            "encoder": spec["encoder"],
            "sizes": "x".join(map(str, codebook.sizes)),
            "fit_start_us": manifest["fit_start_us"],
            "fit_end_us": manifest["fit_end_us"],
        }
    return records


def _rankers_on_disk(repo: Repo) -> dict[str, Record]:
    """The same of rankers. A trained one has its arm, codebook and feature service in its configuration."""
    records = {}
    for folder in sorted(path for path in repo.rankers.glob("[!.]*") if path.is_dir()):
        try:
            manifest = read_manifest(folder)
            config = read_json(folder / _CONFIG) if (folder / _CONFIG).is_file() else {}
        except (ArtifactError, OSError, ValueError):
            continue
        stated = {**config, **manifest}
        columns = ("content_hash", "codebook", "service", "arm", "fit_end_us")
        if all(column in stated for column in columns):
            records[folder.name] = {column: stated[column] for column in columns}
    return records


def _guess_state(repo: Repo, table: sa.Table, name: str) -> Record:
    """The likely state of a record of which only the files are left."""
    if table is RANKERS:
        return {"state": "fitted"}
    defined = name in names_in(repo.defined) or table_path(repo, name).exists()
    return {"state": "published" if defined else "fitted", "defined": defined}


def _recreate(repo: Repo, table: sa.Table, row: Record, on_disk: dict[str, Record]) -> tuple[Record, bool]:
    """A damaged record and whether it is exact: the candidate that matches the hash, else one from the files."""
    for candidate in _candidates(row, on_disk):
        if row_hash(table.name, candidate) == row[CHECK]:
            return candidate, True
    record = {column: value for column, value in row.items() if column != CHECK} | on_disk.get(row["name"], {})
    if record["state"] not in STATES:
        record |= _guess_state(repo, table, row["name"]) if row["name"] in on_disk else {"state": "purged"}
    return record, False


def _candidates(row: Record, on_disk: dict[str, Record]) -> Iterator[Record]:
    """Possible originals of a damaged record: columns from its files, any state, and a time with one bit flipped."""
    stated = {column: value for column, value in row.items() if column != CHECK}
    bases = [stated, *({**stated, "name": name, **facts} for name, facts in on_disk.items())]
    changed = int(row["changed_at_us"]) if isinstance(row["changed_at_us"], int) else 0
    times = [row["changed_at_us"], *(changed ^ (1 << bit) for bit in range(63))]
    states = dict.fromkeys([row["state"], *STATES])
    defined = [{"defined": value} for value in (True, False)] if "defined" in row else [{}]
    for base, state, flag, at in itertools.product(bases, states, defined, times):
        yield {**base, "state": state, **flag, "changed_at_us": at}
