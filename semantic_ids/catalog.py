"""The catalogue of codebooks and rankers: which versions there are and where each is in its life.

States: ``fitting -> fitted -> published -> serving -> retired -> purged``. Files, catalogue, registry and online store
share no transaction, so each step is idempotent and commits its state here last; readers trust only the catalogue.

``defined`` says whether the feature definitions hold the codebook's view. It is set before the view is applied and
taken back by ``purge`` only: a view that vanished from the definitions would lose its online table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from semantic_ids.catalog_tables import CODEBOOKS, RANKERS, CatalogTables, now_us, with_hash
from semantic_ids.defined_codebooks import names_in, write_names
from semantic_ids.records import CodebookRecord, Definitions, RankerRecord
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
from sidkit.core.names import LONGEST_MADE, RULE, check_codebook_name, check_name, is_codebook_name, is_name
from sidkit.core.redact import redacted, scrubbed
from sidkit.core.repo import Repo
from sidkit.core.sqlite_url import absolute_url, sqlite_file
from sidkit.stores.apply_guard import ViewsNow, check_before_apply
from sidkit.stores.registry_path import refuse_copied_registry

STATES = ("fitting", "fitted", "published", "serving", "retired", "purged")
OWNER = "sidkit"


class Catalog(CatalogTables):
    """The catalogue of one repo; open it with :meth:`open`."""

    def __init__(self, url: str, engine: sa.Engine, witness: Path) -> None:
        super().__init__(url, engine)
        self._witness = witness

    @classmethod
    def open(cls, repo: Repo, *, create: bool = True) -> Catalog:
        """Open the catalogue named in ``sidkit.toml``.

        Parameters
        ----------
        repo : Repo
            A relative SQLite path is relative to it.
        create : bool
            Make the tables if they are not there.

        Raises
        ------
        CatalogUnreachableError
            When the database does not answer.
        CatalogCorruptError
            When a record is not what was written.
        CatalogLostError
            When it does not know codebooks whose files are still in the repo.
        """
        stated = resolved_url(repo.settings.catalog.url)
        shown = redacted(stated)
        # Files before rows: the catalogue commits first, so that it knows whatever they know, also while a writer works.
        on_disk, witnessed = _on_disk(repo), names_in(repo.defined)
        try:
            url = absolute_url(stated, repo.path)
            shown = redacted(url.render_as_string(hide_password=False))
            file = sqlite_file(url)
            if file is not None and file.parent.is_dir():
                with suppress(StorageError) if not create else nullcontext():
                    make_private(file)  # else SQLite makes it, for all to read
            catalog = cls(shown, sa.create_engine(url), repo.defined)
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
            When a record is not what was written.
        CatalogError
            When a record has a name that no command writes.
        """
        records = [_codebook_record(row) for row in self._rows(CODEBOOKS, CODEBOOKS.c.fit_end_us, CODEBOOKS.c.name)]
        self._refuse_names("codebook", [record.name for record in records if not is_codebook_name(record.name)])
        return records

    def codebook(self, name: str) -> CodebookRecord:
        """One codebook.

        Raises
        ------
        UnknownVersionError
            When there is none of that name.
        """
        records = {record.name: record for record in self.codebooks()}
        if name not in records:
            raise UnknownVersionError("codebook", name, list(records))
        return records[name]

    def check_free(self, name: str) -> CodebookRecord | None:
        """Refuse a name that no new codebook can have; returns the record of a fit of that name that was interrupted.

        Raises
        ------
        ConfigError
            When the name cannot be a feature view's.
        LifeCycleError
            When the name was used before: a version is never overwritten.
        """
        check_codebook_name(name)
        there = {record.name: record for record in self.codebooks()}.get(name)
        if there is not None and there.state != "fitting":
            raise LifeCycleError(name, there.state, "a codebook is never overwritten; fit under a new name")
        return there

    def begin_fit(self, name: str, quantizer: str, encoder: str, sizes: Sequence[int]) -> None:
        """Record that a fit's files are about to be written, so that they are never unknown to the catalogue.

        Raises
        ------
        ConfigError, LifeCycleError
            As :meth:`check_free`.
        """
        there = self.check_free(name)
        values = {
            "state": "fitting", "defined": False, "content_hash": "", "quantizer": quantizer, "encoder": encoder,
            "sizes": "x".join(map(str, sizes)), "fit_start_us": 0, "fit_end_us": 0, "changed_at_us": now_us(),
        }  # fmt: skip
        with self._transaction() as connection:
            if there is None:
                connection.execute(sa.insert(CODEBOOKS).values(**with_hash(CODEBOOKS, {"name": name, **values})))
            else:
                self._change(connection, CODEBOOKS, name, values)

    def abandon_fit(self, name: str) -> None:
        """Remove the record of a fit that failed before it was committed."""
        with self._transaction() as connection:
            connection.execute(
                sa.delete(CODEBOOKS).where(CODEBOOKS.c.name == name).where(CODEBOOKS.c.state == "fitting")
            )

    def end_fit(
        self, name: str, *, content_hash: str, sizes: Sequence[int], fit_start_us: int, fit_end_us: int
    ) -> None:
        """Commit a fit: ``fitting -> fitted``."""
        self._set_codebook(
            name, state="fitted", content_hash=content_hash, sizes="x".join(map(str, sizes)),
            fit_start_us=fit_start_us, fit_end_us=fit_end_us,
        )  # fmt: skip

    def define(self, name: str) -> None:
        """Let the feature definitions hold the codebook's view from now on.

        The name is also written beside the catalogue: one that is put back from an old copy would not know it.
        """
        self._set_codebook(name, defined=True)
        write_names(self._witness, names_in(self._witness) | {name})

    def set_state(self, name: str, state: str) -> None:
        """Commit a step of a codebook's life; promoting one takes the place of the serving one."""
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
            When there is none, or several are published and none serves.
        """
        records = self.codebooks()
        serving = [record for record in records if record.state == "serving"]
        published = [record for record in records if record.state == "published"]
        if serving:
            return serving[0]
        if len(published) == 1:
            return published[0]
        raise UnknownVersionError("serving codebook", "(default)", [record.name for record in published])

    def rankers(self) -> list[RankerRecord]:
        """All rankers by name."""
        records = [RankerRecord(**row) for row in self._rows(RANKERS, RANKERS.c.name)]
        made = [name for record in records for name in (record.name, record.service)]
        broken = [name for name in made if not is_name(name, LONGEST_MADE)]
        broken += [record.codebook for record in records if not is_codebook_name(record.codebook)]
        self._refuse_names("ranker, service or codebook", broken)
        return records

    def _refuse_names(self, kind: str, broken: Sequence[str]) -> None:
        """Names of the catalogue become paths; whoever writes to the database must not choose where."""
        if broken:
            raise CatalogError(
                f"the catalogue at {self.url} holds a {kind} named {broken[0]!r}, which no command of sidkit wrote: names "
                f"are {RULE}. Remove that row from the database, or restore the catalogue from a copy"
            )

    def ranker(self, name: str) -> RankerRecord:
        """One ranker.

        Raises
        ------
        UnknownVersionError
            When there is none of that name.
        """
        records = {record.name: record for record in self.rankers()}
        if name not in records:
            raise UnknownVersionError("ranker", name, list(records))
        return records[name]

    def serving_ranker(self) -> RankerRecord:
        """The ranker in state ``serving``.

        Raises
        ------
        UnknownVersionError
            When none serves.
        """
        records = self.rankers()
        for record in records:
            if record.state == "serving":
                return record
        raise UnknownVersionError("serving ranker", "(default)", [record.name for record in records])

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
        """Commit a trained ranker (state ``fitted``); the same ranker again changes nothing.

        ``anew`` says that the files of the ranker of that name were damaged or missing, and were trained again: other
        weights then take their place.
        """
        check_name("ranker", name, LONGEST_MADE)
        check_name("feature service", service, LONGEST_MADE)
        check_codebook_name(codebook)
        there = {record.name: record for record in self.rankers()}.get(name)
        if there is not None:
            if there.content_hash != content_hash and anew:
                self._set(RANKERS, name, {"content_hash": content_hash}, instead=None)
            elif there.content_hash != content_hash:
                raise LifeCycleError(name, there.state, "a ranker is never overwritten; train under a new name")
            return
        values = {
            "name": name, "state": "fitted", "content_hash": content_hash, "codebook": codebook, "service": service,
            "arm": arm, "fit_end_us": fit_end_us, "changed_at_us": now_us(),
        }  # fmt: skip
        with self._transaction() as connection:
            connection.execute(sa.insert(RANKERS).values(**with_hash(RANKERS, values)))

    def set_ranker_state(self, name: str, state: str) -> None:
        """Commit a step of a ranker's life; promoting one takes the place of the serving one."""
        self._set(RANKERS, name, {"state": state}, instead="fitted")


def read_definitions(repo_path: Path) -> Definitions:
    """What ``feature_repo/*.py`` builds its views from.

    Raises
    ------
    CatalogError
        When the catalogue cannot be read or forgot codebooks: the import fails, so that ``feast apply`` drops nothing.
    RepoError
        When the repo is a copy that names the original's registry.
    """
    repo = Repo(Path(repo_path).resolve())
    refuse_copied_registry(repo)
    records = Catalog.open(repo, create=False).codebooks()
    check_before_apply(repo.path, lambda: _views_now(repo))
    settings = repo.settings
    return Definitions(
        modalities=settings.source.modalities,
        codebooks=tuple(record for record in records if record.defined),
        owner=OWNER,
        tags={
            "availability_delay_seconds": f"{settings.time.availability_delay_seconds:g}",
            "settings_hash": content_hash(settings.feature_settings()),
        },
    )


def _views_now(repo: Repo) -> ViewsNow:
    records = Catalog.open(repo, create=False).codebooks()
    return ViewsNow(
        frozenset(record.view_name for record in records if record.defined),
        frozenset(record.view_name for record in records if not record.defined),
    )


def table_path(repo: Repo, name: str) -> Path:
    """The table of a codebook's codes."""
    return repo.tables / f"item_sid_{name}.parquet"


def _on_disk(repo: Repo) -> set[str]:
    """Codebooks of which the repo still holds files."""
    folders = {path.name for path in repo.codebooks.glob("[a-z]*") if path.is_dir()}
    tables = {path.stem.removeprefix("item_sid_") for path in repo.tables.glob("item_sid_*.parquet")}
    return folders | tables


def _codebook_record(row: Mapping[str, Any]) -> CodebookRecord:
    sizes = tuple(int(size) for size in row["sizes"].split("x") if size)
    return CodebookRecord(**{**row, "sizes": sizes})
