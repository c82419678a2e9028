"""The catalogue of codebook and ranker versions and their states.

States: ``fitting -> fitted -> published -> serving -> retired -> purged``. Files, catalogue, registry and online store
share no transaction, so each step is idempotent and commits its state here last; readers trust only the catalogue.

``defined`` is true while the feature definitions include the codebook's view. It is set before the view is applied and
cleared only by ``purge``: a view that disappears from the definitions loses its online table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from semantic_ids.catalog_artifacts import CatalogArtifacts
from semantic_ids.catalog_engine import catalog_engine, catalog_url
from semantic_ids.catalog_tables import CODEBOOKS, RANKERS, CatalogTables, now_us, with_hash
from semantic_ids.code_stats import code_stats_of
from semantic_ids.defined_codebooks import names_in, write_names
from semantic_ids.neighbour_lists import neighbours_of
from semantic_ids.records import CodebookRecord, Definitions, RankerRecord
from sidkit.core.code_stats import stats_views
from sidkit.core.config import content_hash, resolved_url
from sidkit.core.errors import (
    CatalogError,
    CatalogLostError,
    CatalogUnreachableError,
    LifeCycleError,
    StorageError,
    UnknownVersionError,
)
from sidkit.core.files import make_private
from sidkit.core.names import (
    LONGEST_MADE,
    RULE,
    check_codebook_name,
    check_name,
    is_codebook_name,
    is_name,
    neighbours_view,
)
from sidkit.core.redact import redacted, scrubbed
from sidkit.core.repo import Repo
from sidkit.core.sqlite_url import sqlite_file
from sidkit.stores.apply_guard import ViewsNow, check_before_apply
from sidkit.stores.registry_path import refuse_copied_registry

STATES = ("fitting", "fitted", "published", "serving", "retired", "purged")
OWNER = "sidkit"


class Catalog(CatalogTables):
    """The catalogue of one repo: every codebook and ranker version and its state. Open it with :meth:`open`."""

    def __init__(self, url: str, engine: sa.Engine, repo: Repo) -> None:
        super().__init__(url, engine, repo.settings.catalog.db_schema)
        self._witness = repo.defined
        self.artifacts = CatalogArtifacts(repo)

    @classmethod
    def open(cls, repo: Repo, *, create: bool = True) -> Catalog:
        """Open the catalogue named in ``sidkit.toml``.

        Parameters
        ----------
        repo : Repo
            A relative SQLite path is resolved against it.
        create : bool
            Create the tables if they are missing.

        Raises
        ------
        CatalogUnreachableError
            When the database cannot be reached.
        CatalogCorruptError
            When a record does not match its hash.
        CatalogLostError
            When codebooks whose files are in the repo are missing from it.
        """
        stated = resolved_url(repo.settings.catalog.url)
        shown = redacted(stated)
        # Read files before rows: writers commit to the catalogue first, so every file seen here has a record.
        on_disk, witnessed = _on_disk(repo), names_in(repo.defined)
        try:
            url = catalog_url(repo.settings.catalog, repo.path)
            shown = redacted(url.render_as_string(hide_password=False))
            file = sqlite_file(url)
            if file is not None and file.parent.is_dir():
                with suppress(StorageError) if not create else nullcontext():
                    make_private(file)  # SQLite would create it world-readable
            engine = catalog_engine(repo.settings.catalog, url)
            catalog = cls(shown, engine, repo)
            if create:
                catalog.make_tables()
            known = {record.name: record for record in catalog.codebooks()}
        except (sa.exc.SQLAlchemyError, ImportError, OSError, ValueError) as error:
            raise CatalogUnreachableError(shown, scrubbed(error, stated)) from None
        settled = {name for name, record in known.items() if record.defined or record.state == "purged"}
        orphans = sorted((on_disk - set(known)) | (witnessed - settled))
        if orphans:
            raise CatalogLostError(shown, orphans)
        return catalog

    def codebooks(self) -> list[CodebookRecord]:
        """All codebooks, oldest first, purged ones too.

        Raises
        ------
        CatalogCorruptError
            When a record does not match its hash.
        CatalogError
            When a record has an invalid name.
        """
        records = [_codebook_record(row) for row in self._rows(CODEBOOKS, CODEBOOKS.c.fit_end_us, CODEBOOKS.c.name)]
        self._refuse_names("codebook", [record.name for record in records if not is_codebook_name(record.name)])
        return records

    def codebook(self, name: str) -> CodebookRecord:
        """Get a codebook by name.

        Raises
        ------
        UnknownVersionError
            When no codebook has that name.
        """
        records = {record.name: record for record in self.codebooks()}
        if name not in records:
            raise UnknownVersionError("codebook", name, list(records))
        return self.artifacts.fetched(records[name])

    def check_free(self, name: str) -> CodebookRecord | None:
        """Check that a new codebook may have this name; returns the record of an interrupted fit of that name, if any.

        Raises
        ------
        ConfigError
            When the name is not valid for a feature view.
        LifeCycleError
            When the name was used before: a version is never overwritten.
        """
        check_codebook_name(name)
        existing = {record.name: record for record in self.codebooks()}.get(name)
        if existing is not None and existing.state != "fitting":
            raise LifeCycleError(name, existing.state, "a codebook is never overwritten; fit under a new name")
        return existing

    def begin_fit(self, name: str, quantizer: str, encoder: str, sizes: Sequence[int]) -> None:
        """Record that a fit is about to write its files, so that no file lacks a catalogue record.

        Raises
        ------
        ConfigError, LifeCycleError
            As :meth:`check_free`.
        """
        self.check_free(name)
        values = {
            "state": "fitting",
            "defined": False,
            "content_hash": "",
            "quantizer": quantizer,
            "encoder": encoder,
            "sizes": "x".join(map(str, sizes)),
            "fit_start_us": 0,
            "fit_end_us": 0,
            "changed_at_us": now_us(),
        }
        with self._changing(CODEBOOKS) as connection:
            state = connection.execute(sa.select(CODEBOOKS.c.state).where(CODEBOOKS.c.name == name)).scalar()
            if state is None:
                connection.execute(sa.insert(CODEBOOKS).values(**with_hash(CODEBOOKS, {"name": name, **values})))
            elif state == "fitting":
                self._change(connection, CODEBOOKS, name, values)
            else:  # another writer ended a fit of this name meanwhile
                raise LifeCycleError(name, state, "a codebook is never overwritten; fit under a new name")

    def abandon_fit(self, name: str) -> None:
        """Remove the record of a fit that failed before it was committed."""
        with self._changing(CODEBOOKS) as connection:
            connection.execute(
                sa.delete(CODEBOOKS).where(CODEBOOKS.c.name == name).where(CODEBOOKS.c.state == "fitting")
            )

    def end_fit(
        self, name: str, *, content_hash: str, sizes: Sequence[int], fit_start_us: int, fit_end_us: int
    ) -> None:
        """Share the codebook's files, then commit the fit: ``fitting -> fitted``."""
        self.artifacts.publish_codebook(name)
        self._set_codebook(
            name,
            state="fitted",
            content_hash=content_hash,
            sizes="x".join(map(str, sizes)),
            fit_start_us=fit_start_us,
            fit_end_us=fit_end_us,
        )

    def define(self, name: str) -> None:
        """Include the codebook's view in the feature definitions from now on.

        The name is also written to a file next to the catalogue, so that a catalogue restored from an older copy is
        recognised as incomplete.
        """
        self._set_codebook(name, defined=True)
        write_names(self._witness, names_in(self._witness) | {name})

    def set_state(self, name: str, state: str) -> None:
        """Commit a codebook's new state; promoting one demotes the serving one to ``published``."""
        values: dict[str, Any] = {"state": state}
        if state == "purged":
            values["defined"] = False
        self._set(CODEBOOKS, name, values, instead="published")
        if state == "purged" and name in names_in(self._witness):
            write_names(self._witness, names_in(self._witness) - {name})

    def _set_codebook(self, name: str, **values: object) -> None:
        self._set(CODEBOOKS, name, values, instead=None)

    def serving_codebook(self) -> CodebookRecord:
        """The codebook in state ``serving``, or the only published one.

        Raises
        ------
        UnknownVersionError
            When there is none, or several are published and none is serving.
        """
        records = self.codebooks()
        serving = [record for record in records if record.state == "serving"]
        published = [record for record in records if record.state == "published"]
        if serving:
            return self.artifacts.fetched(serving[0])
        if len(published) == 1:
            return self.artifacts.fetched(published[0])
        remedy = "Name one, or promote one with `sidkit codebooks promote NAME`"
        if not published:
            remedy = "Fit one with `sidkit codebooks fit NAME` and publish it, or start `sidkit run`"
        raise UnknownVersionError("serving codebook", "", [record.name for record in published], remedy)

    def rankers(self) -> list[RankerRecord]:
        """All rankers by name."""
        records = [RankerRecord(**row) for row in self._rows(RANKERS, RANKERS.c.name)]
        made = [name for record in records for name in (record.name, record.service)]
        broken = [name for name in made if not is_name(name, LONGEST_MADE)]
        broken += [record.codebook for record in records if not is_codebook_name(record.codebook)]
        self._refuse_names("ranker, service or codebook", broken)
        return records

    def _refuse_names(self, kind: str, broken: Sequence[str]) -> None:
        """Reject invalid names: they become paths, so write access to the database must not allow path traversal."""
        if broken:
            raise CatalogError(
                f"the catalogue at {self.url} contains a {kind} named {broken[0]!r}, which sidkit did not write: names "
                f"are {RULE}. Remove that row from the database, or restore the catalogue from a backup"
            )

    def ranker(self, name: str) -> RankerRecord:
        """Get a ranker by name.

        Raises
        ------
        UnknownVersionError
            When no ranker has that name.
        """
        records = {record.name: record for record in self.rankers()}
        if name not in records:
            raise UnknownVersionError("ranker", name, list(records))
        return self.artifacts.fetched(records[name])

    def serving_ranker(self) -> RankerRecord:
        """The ranker in state ``serving``.

        Raises
        ------
        UnknownVersionError
            When no ranker is serving.
        """
        records = self.rankers()
        for record in records:
            if record.state == "serving":
                return self.artifacts.fetched(record)
        remedy = (
            "Name one, or promote one with `sidkit ranker promote NAME`" if records else "Train one with `sidkit run`"
        )
        raise UnknownVersionError("serving ranker", "", [record.name for record in records], remedy)

    def add_ranker(
        self,
        name: str,
        *,
        content_hash: str,
        codebook: str,
        service: str,
        arm: str,
        fit_end_us: int,
        anew: bool = False,
    ) -> None:
        """Record a trained ranker (state ``fitted``); recording the same ranker again changes nothing.

        With ``anew`` the files of that ranker were damaged or missing and it was trained again, so a different content
        hash replaces the recorded one.
        """
        check_name("ranker", name, LONGEST_MADE)
        check_name("feature service", service, LONGEST_MADE)
        check_codebook_name(codebook)
        self.artifacts.publish_ranker(name)
        existing = {record.name: record for record in self.rankers()}.get(name)
        if existing is not None:
            if existing.content_hash != content_hash and anew:
                self._set(RANKERS, name, {"content_hash": content_hash}, instead=None)
            elif existing.content_hash != content_hash:
                raise LifeCycleError(name, existing.state, "a ranker is never overwritten; train under a new name")
            return
        values = {
            "name": name,
            "state": "fitted",
            "content_hash": content_hash,
            "codebook": codebook,
            "service": service,
            "arm": arm,
            "fit_end_us": fit_end_us,
            "changed_at_us": now_us(),
        }
        with self._changing(RANKERS) as connection:
            if connection.execute(sa.select(RANKERS.c.name).where(RANKERS.c.name == name)).first():
                raise LifeCycleError(name, "fitted", "another writer added it meanwhile; train under a new name")
            connection.execute(sa.insert(RANKERS).values(**with_hash(RANKERS, values)))

    def set_ranker_state(self, name: str, state: str) -> None:
        """Commit a ranker's new state; promoting one demotes the serving one to ``fitted``."""
        self._set(RANKERS, name, {"state": state}, instead="fitted")


def read_definitions(repo_path: Path) -> Definitions:
    """Read what ``feature_repo/*.py`` builds its views from.

    Raises
    ------
    CatalogError
        When the catalogue cannot be read or lacks codebooks; the import then fails, so ``feast apply`` drops no view.
    RepoError
        When the repo is a copy that still points at the original's registry.
    """
    repo = Repo(Path(repo_path).resolve())
    refuse_copied_registry(repo)
    catalog = Catalog.open(repo, create=False)
    records = catalog.codebooks()
    check_before_apply(repo.path, lambda: _views_now(repo))
    settings = repo.settings
    defined = tuple(catalog.artifacts.fetched(record) for record in records if record.defined)
    stats = {record.name: code_stats_of(repo, record.name) for record in defined}
    return Definitions(
        modalities=settings.source.content_vectors,
        codebooks=defined,
        code_stats={name: chosen for name, chosen in stats.items() if chosen is not None},
        neighbours={record.name: lists for record in defined if (lists := neighbours_of(repo, record.name))},
        features=settings.features,
        owner=OWNER,
        tables=settings.engine.tables,
        partitions=settings.engine.partitions,
        tags={
            "availability_delay_seconds": f"{settings.time.availability_delay_seconds:g}",
            "settings_hash": content_hash(settings.feature_settings()),
            **({"features_hash": settings.features_hash()} if settings.features_hash() else {}),
        },
    )


def _views_now(repo: Repo) -> ViewsNow:
    records = Catalog.open(repo, create=False).codebooks()
    defined = [record for record in records if record.defined]
    return ViewsNow(
        frozenset(record.view_name for record in defined),
        frozenset(record.view_name for record in records if not record.defined),
        frozenset(view for record in defined for view in (*stats_views(record.name), neighbours_view(record.name))),
    )


def table_path(repo: Repo, name: str) -> Path:
    """Path of a codebook's table of codes."""
    return repo.tables / f"item_sid_{name}.parquet"


def _on_disk(repo: Repo) -> set[str]:
    """Names of codebooks that have files in the repo."""
    folders = {path.name for path in repo.codebooks.glob("[a-z]*") if path.is_dir()}
    tables = {path.stem.removeprefix("item_sid_") for path in repo.tables.glob("item_sid_*.parquet")}
    return folders | tables


def _codebook_record(row: Mapping[str, Any]) -> CodebookRecord:
    sizes = tuple(int(size) for size in row["sizes"].split("x") if size)
    return CodebookRecord(**{**row, "sizes": sizes})
