"""Records of the catalogue made anew from the artefacts, after damage or loss.

An artefact's manifest holds all of a record but its state. Where the record's check value is there, the state is searched
among all states until the check value fits: then the record is exactly what it was.
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
from semantic_ids.catalog_tables import CHECK, CODEBOOKS, RANKERS, row_hash
from semantic_ids.codebook import Codebook
from semantic_ids.defined_codebooks import names_in
from sidkit.core.artifact import read_manifest
from sidkit.core.errors import ArtifactError, CatalogUnreachableError
from sidkit.core.repo import Repo
from sidkit.core.sqlite_url import absolute_url

Record = dict[str, Any]


@dataclass(frozen=True)
class Repaired:
    """One record that was made anew; ``exact`` says that it is provably what it was."""

    kind: str
    name: str
    state: str
    exact: bool

    def __str__(self) -> str:
        how = "as it was" if self.exact else "from its files; check its state"
        return f"{self.kind} {self.name}: {self.state}, {how}"


def repair_catalog(repo: Repo) -> list[Repaired]:
    """Make damaged and lost records anew.

    A SQLite file that cannot be read is renamed to ``<name>.damaged``. A lost codebook comes back ``published`` where its
    view was defined, else ``fitted``; a lost ranker comes back ``fitted``: promote the ones that shall serve.

    Raises
    ------
    CatalogUnreachableError
        When the database does not answer and is no SQLite file of the repo.
    """
    catalog = _opened(repo)
    done: list[Repaired] = []
    for table, kind, found in (
        (CODEBOOKS, "codebook", _codebooks_on_disk(repo)),
        (RANKERS, "ranker", _rankers_on_disk(repo)),
    ):
        rows = catalog.unverified(table)
        records = {row["name"]: row for row in rows if row[CHECK] in {None, row_hash(table.name, row)}}
        damaged = [row for row in rows if records.get(row["name"]) is not row]
        for row in damaged:
            lost = {name: facts for name, facts in found.items() if name not in records}
            anew, exact = _anew(repo, table, row, lost)
            records[anew["name"]] = anew
            done.append(Repaired(kind, anew["name"], anew["state"], exact))
        for name in sorted(found.keys() - records.keys()):
            records[name] = {"name": name, "changed_at_us": _now(), **_guessed(repo, table, name), **found[name]}
            done.append(Repaired(kind, name, records[name]["state"], exact=False))
        if damaged or len(records) > len(rows):
            catalog.rewrite(table, list(records.values()))
    return done


def _now() -> int:
    return time.time_ns() // 1000


def _opened(repo: Repo) -> Catalog:
    url = absolute_url(repo.settings.catalog.url, repo.path)
    for again in (False, True):
        catalog = Catalog(url.render_as_string(hide_password=True), sa.create_engine(url), repo.defined)
        try:
            catalog.make_tables()
            for table in (CODEBOOKS, RANKERS):
                catalog.unverified(table)
        except (sa.exc.SQLAlchemyError, CatalogUnreachableError, ValueError) as error:
            file = Path(url.database or "")
            if again or url.get_backend_name() != "sqlite" or not file.is_file():
                raise CatalogUnreachableError(catalog.url, error) from error
            file.replace(f"{file}.damaged")
        else:
            break
    return catalog


def _codebooks_on_disk(repo: Repo) -> dict[str, Record]:
    """What the artefacts say of their records."""
    found = {}
    for folder in sorted(path for path in repo.codebooks.glob("[a-z]*") if path.is_dir()):
        try:
            manifest, codebook = read_manifest(folder), Codebook.load(folder)
        except ArtifactError:
            continue
        spec = manifest["spec"]
        found[folder.name] = {
            "content_hash": manifest["content_hash"], "quantizer": spec["quantizer"], "encoder": spec["encoder"],
            "sizes": "x".join(map(str, codebook.sizes)), "fit_start_us": manifest["fit_start_us"],
            "fit_end_us": manifest["fit_end_us"],
        }  # fmt: skip
    return found


def _rankers_on_disk(repo: Repo) -> dict[str, Record]:
    found = {}
    for folder in sorted(path for path in repo.rankers.glob("[!.]*") if path.is_dir()):
        try:
            manifest = read_manifest(folder)
        except ArtifactError:
            continue
        columns = ("content_hash", "codebook", "service", "arm", "fit_end_us")
        if all(column in manifest for column in columns):
            found[folder.name] = {column: manifest[column] for column in columns}
    return found


def _guessed(repo: Repo, table: sa.Table, name: str) -> Record:
    """The state of a record of which nothing but its files is known."""
    if table is RANKERS:
        return {"state": "fitted"}
    defined = name in names_in(repo.defined) or table_path(repo, name).exists()
    return {"state": "published" if defined else "fitted", "defined": defined}


def _anew(repo: Repo, table: sa.Table, row: Record, found: dict[str, Record]) -> tuple[Record, bool]:
    """A damaged record as it was, where its check value says so; else from its files, or as it stands."""
    for candidate in _candidates(row, found):
        if row_hash(table.name, candidate) == row[CHECK]:
            return candidate, True
    anew = {column: value for column, value in row.items() if column != CHECK} | found.get(row["name"], {})
    if anew["state"] not in STATES:
        anew |= _guessed(repo, table, row["name"]) if row["name"] in found else {"state": "purged"}
    return anew, False


def _candidates(row: Record, found: dict[str, Record]) -> Iterator[Record]:
    """Records that a damaged one may have been: with its files' facts, any state, and a time one bit apart."""
    stated = {column: value for column, value in row.items() if column != CHECK}
    bases = [stated, *({**stated, "name": name, **facts} for name, facts in found.items())]
    changed = int(row["changed_at_us"]) if isinstance(row["changed_at_us"], int) else 0
    times = [row["changed_at_us"], *(changed ^ (1 << bit) for bit in range(63))]
    states = dict.fromkeys([row["state"], *STATES])
    defined = [{"defined": value} for value in (True, False)] if "defined" in row else [{}]
    for base, state, flag, at in itertools.product(bases, states, defined, times):
        yield {**base, "state": state, **flag, "changed_at_us": at}
