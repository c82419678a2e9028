"""The catalogue of codebooks and rankers: which versions there are and where each is in its life.

States: ``fitting -> fitted -> published -> serving -> retired -> purged``. Files, catalogue, registry and online store
share no transaction, so each step is idempotent and commits its state here last; readers trust only the catalogue.

``defined`` says whether the feature definitions hold the codebook's view. It is set before the view is applied and
taken back by ``purge`` only: a view that vanished from the definitions would lose its online table.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from semantic_ids.records import CodebookRecord, Definitions, RankerRecord
from semantic_ids.witness import names_in, write_names
from sidkit.config import content_hash
from sidkit.errors import (
    CatalogLostError,
    CatalogUnreachableError,
    ConfigError,
    LifeCycleError,
    UnknownVersionError,
)
from sidkit.repo import Repo
from sidkit.sqlite_url import absolute_url
from sidkit.stores.registry_path import refuse_copied_registry

STATES = ("fitting", "fitted", "published", "serving", "retired", "purged")
OWNER = "sidkit"

_SERVICE_PARTS = ("_user", "_item", "_content")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_metadata = sa.MetaData()
_codebooks = sa.Table(
    "sidkit_codebooks",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("defined", sa.Boolean, nullable=False, default=False),
    sa.Column("content_hash", sa.String(64), nullable=False, default=""),
    sa.Column("quantizer", sa.String(64), nullable=False),
    sa.Column("encoder", sa.String(64), nullable=False),
    sa.Column("sizes", sa.String(255), nullable=False),
    sa.Column("fit_start_us", sa.BigInteger, nullable=False, default=0),
    sa.Column("fit_end_us", sa.BigInteger, nullable=False, default=0),
    sa.Column("changed_at_us", sa.BigInteger, nullable=False),
)
_rankers = sa.Table(
    "sidkit_rankers",
    _metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("content_hash", sa.String(64), nullable=False),
    sa.Column("codebook", sa.String(64), nullable=False),
    sa.Column("service", sa.String(128), nullable=False),
    sa.Column("arm", sa.String(64), nullable=False),
    sa.Column("fit_end_us", sa.BigInteger, nullable=False),
    sa.Column("changed_at_us", sa.BigInteger, nullable=False),
)


class Catalog:
    """The catalogue of one repo; open it with :meth:`open`."""

    def __init__(self, url: str, engine: sa.Engine, witness: Path) -> None:
        self.url = url
        self._engine = engine
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
        CatalogLostError
            When it does not know codebooks whose files are still in the repo.
        """
        shown = _hidden(repo.settings.catalog.url)
        # Files before rows: the catalogue commits first, so that it knows whatever they know, also while a writer works.
        on_disk, witnessed = _on_disk(repo), names_in(repo.defined)
        try:
            url = absolute_url(repo.settings.catalog.url, repo.path)
            shown = url.render_as_string(hide_password=True)
            catalog = cls(shown, sa.create_engine(url), repo.defined)
            if create:
                _metadata.create_all(catalog._engine)
            known = {record.name: record for record in catalog.codebooks()}
        except (sa.exc.SQLAlchemyError, ImportError, OSError, ValueError) as error:
            raise CatalogUnreachableError(shown, error) from error
        settled = {name for name, record in known.items() if record.defined or record.state == "purged"}
        orphans = sorted((on_disk - set(known)) | (witnessed - settled))
        if orphans:
            raise CatalogLostError(shown, orphans)
        return catalog

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise CatalogUnreachableError(self.url, error) from error

    def _rows(self, table: sa.Table, *order: sa.Column[Any]) -> list[sa.Row[Any]]:
        with self._transaction() as connection:
            if not sa.inspect(connection).has_table(table.name):
                return []
            return list(connection.execute(sa.select(table).order_by(*order)))

    def codebooks(self) -> list[CodebookRecord]:
        """All codebooks, oldest first, purged ones too."""
        return [_codebook_record(row) for row in self._rows(_codebooks, _codebooks.c.fit_end_us, _codebooks.c.name)]

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

    def begin_fit(self, name: str, quantizer: str, encoder: str, sizes: Sequence[int]) -> None:
        """Note that a fit begins, so that its files are never strangers to the catalogue.

        Raises
        ------
        ConfigError
            When the name cannot be a feature view's.
        LifeCycleError
            When the name was used before: a version is never overwritten.
        """
        if not _NAME.fullmatch(name) or name.endswith(_SERVICE_PARTS):
            raise ConfigError(
                f"{name!r} cannot name a codebook: lower-case letters, digits and underscores, a letter first, at most "
                "63 characters (it becomes part of a feature view's and a table's name), and none of "
                f"{', '.join(_SERVICE_PARTS)} at its end (they end its services' names)"
            )
        there = {record.name: record for record in self.codebooks()}.get(name)
        if there is not None and there.state != "fitting":
            raise LifeCycleError(name, there.state, "a codebook is never overwritten; fit under a new name")
        values = {
            "state": "fitting", "defined": False, "content_hash": "", "quantizer": quantizer, "encoder": encoder,
            "sizes": "x".join(map(str, sizes)), "fit_start_us": 0, "fit_end_us": 0, "changed_at_us": _now(),
        }  # fmt: skip
        with self._transaction() as connection:
            if there is None:
                connection.execute(sa.insert(_codebooks).values(name=name, **values))
            else:
                connection.execute(sa.update(_codebooks).where(_codebooks.c.name == name).values(**values))

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
        self._set(_codebooks, name, values, instead="published")
        if state == "purged" and name in names_in(self._witness):
            write_names(self._witness, names_in(self._witness) - {name})

    def _set_codebook(self, name: str, **values: object) -> None:
        self._set(_codebooks, name, values, instead=None)

    def _set(self, table: sa.Table, name: str, values: dict[str, Any], instead: str | None) -> None:
        """Change one version, or none of them; a new serving one puts the old one into state ``instead``."""
        there = table.c.name == name
        with self._transaction() as connection:
            if not connection.execute(sa.select(table.c.name).where(there)).first():
                known = list(connection.execute(sa.select(table.c.name)).scalars())
                raise UnknownVersionError("codebook" if table is _codebooks else "ranker", name, known)
            if values.get("state") == "serving":
                connection.execute(
                    sa.update(table)
                    .where(table.c.state == "serving", table.c.name != name)
                    .values(state=instead, changed_at_us=_now())
                )
            connection.execute(sa.update(table).where(there).values(changed_at_us=_now(), **values))

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
        return [RankerRecord(**row._mapping) for row in self._rows(_rankers, _rankers.c.name)]

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
        there = {record.name: record for record in self.rankers()}.get(name)
        if there is not None:
            if there.content_hash != content_hash and anew:
                self._set(_rankers, name, {"content_hash": content_hash}, instead=None)
            elif there.content_hash != content_hash:
                raise LifeCycleError(name, there.state, "a ranker is never overwritten; train under a new name")
            return
        with self._transaction() as connection:
            connection.execute(
                sa.insert(_rankers).values(
                    name=name,
                    state="fitted",
                    content_hash=content_hash,
                    codebook=codebook,
                    service=service,
                    arm=arm,
                    fit_end_us=fit_end_us,
                    changed_at_us=_now(),
                )
            )

    def set_ranker_state(self, name: str, state: str) -> None:
        """Commit a step of a ranker's life; promoting one takes the place of the serving one."""
        self._set(_rankers, name, {"state": state}, instead="fitted")


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


def table_path(repo: Repo, name: str) -> Path:
    """The table of a codebook's codes."""
    return repo.tables / f"item_sid_{name}.parquet"


def _on_disk(repo: Repo) -> set[str]:
    """Codebooks of which the repo still holds files."""
    folders = {path.name for path in repo.codebooks.glob("[a-z]*") if path.is_dir()}
    tables = {path.stem.removeprefix("item_sid_") for path in repo.tables.glob("item_sid_*.parquet")}
    return folders | tables


def _codebook_record(row: sa.Row[Any]) -> CodebookRecord:
    values = dict(row._mapping)
    values["sizes"] = tuple(int(size) for size in values["sizes"].split("x") if size)
    return CodebookRecord(**values)


def _hidden(text: str) -> str:
    """The URL without its password; where it cannot be parsed, without all before the last ``@``."""
    try:
        return sa.engine.make_url(text).render_as_string(hide_password=True)
    except (sa.exc.ArgumentError, ValueError):
        scheme, _, rest = text.partition(":")
        return f"{scheme}:***@{rest.rpartition('@')[2]}"


def _now() -> int:
    return time.time_ns() // 1000
