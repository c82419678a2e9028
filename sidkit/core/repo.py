"""A sidkit repository: its paths, settings and write lock."""

from __future__ import annotations

import itertools
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from sidkit.core.config import Settings
from sidkit.core.errors import ConfigError, RepoError, RepoLockedError, StorageError
from sidkit.core.files import make_private, remove, remove_leftovers, typed_path, written_beside
from sidkit.core.forgotten import refuse_half_forgotten
from sidkit.core.locks import locked_folder
from sidkit.core.repo_format import keep_format, refuse_other_format, write_format
from sidkit.core.toml_text import toml_key, toml_tables, toml_value

SETTINGS_FILE = "sidkit.toml"
FEAST_FILE = "feature_store.yaml"
_TEMPLATE_FILES = (
    FEAST_FILE,
    SETTINGS_FILE,
    ".feastignore",
    "entities.py",
    "sources.py",
    "item_views.py",
    "user_views.py",
    "semantic_id_views.py",
    "on_demand_views.py",
    "services.py",
)


_INSIDE = "./"
"""Start of a source's path that is relative to the repository."""
_TICKING = " events tick"
"""End of the holder's name during a tick."""
_TICK_SECONDS, _WAIT_SECONDS = 60.0, 0.02
"""How long a command waits for the end of ticks, and from one look to the next."""
_LOCKED_BYTES = 1
"""Bytes of the lock file before the holder's name: Windows locks the first byte, which no other process can then read."""


@dataclass(frozen=True)
class Repo:
    """A Feast repository with a ``sidkit.toml``.

    Parameters
    ----------
    path : Path
        Absolute path of the repository. Use :meth:`open`, which validates it.
    """

    path: Path

    @classmethod
    def open(cls, path: Path | str, *, any_format: bool = False) -> Repo:
        """Open an existing repository.

        Parameters
        ----------
        path : Path or str
            Path of the repository.
        any_format : bool
            Accept files written by another release (for ``sidkit upgrade``).

        Raises
        ------
        RepoError
            When the folder is not a sidkit repository, or its format is not the one that this release reads.
        """
        folder = typed_path(path)
        for name in (FEAST_FILE, SETTINGS_FILE):
            if not (folder / name).is_file():
                raise RepoError(
                    f"{folder} is not a sidkit repository: {name} is missing. Pass its path with --repo, or create one "
                    f"with `sidkit init {path}`."
                )
        if not any_format:
            refuse_other_format(folder)
        return cls(folder)

    @cached_property
    def settings(self) -> Settings:
        """The settings in ``sidkit.toml``, with a source inside the repository as an absolute path."""
        settings = Settings.load(self.path / SETTINGS_FILE)
        if not settings.source.url.startswith(_INSIDE):
            return settings
        source = settings.source.model_copy(update={"url": str(self.path / settings.source.url)})
        return settings.model_copy(update={"source": source})

    @property
    def data(self) -> Path:
        """Data that can be recomputed from the source (``data``)."""
        return self.path / "data"

    @property
    def log(self) -> Path:
        """The validated log (``data/log``)."""
        return self.data / "log"

    @property
    def rejects(self) -> Path:
        """Rows that break the contract, with their reasons (``data/rejects``)."""
        return self.data / "rejects"

    @property
    def tables(self) -> Path:
        """The feature tables (``data/tables``)."""
        return self.data / "tables"

    @property
    def sources(self) -> Path:
        """The feature tables partitioned by day, with ``engine.partitions = "day"`` (``data/sources``)."""
        return self.data / "sources"

    @property
    def labelled_rows(self) -> Path:
        """The labelled rows, sampled negatives included (``data/rows.parquet``)."""
        return self.data / "rows.parquet"

    @property
    def defined(self) -> Path:
        """Codebooks whose views may be in the registry, independent of the catalogue (``data/defined.json``)."""
        return self.data / "defined.json"

    @property
    def codebooks(self) -> Path:
        """The codebook artefacts (``artifacts/codebooks``)."""
        return self.path / "artifacts" / "codebooks"

    @property
    def rankers(self) -> Path:
        """The ranker artefacts (``artifacts/rankers``)."""
        return self.path / "artifacts" / "rankers"

    @property
    def runs(self) -> Path:
        """Saved runs, one folder per preset (``artifacts/runs``)."""
        return self.path / "artifacts" / "runs"

    @contextmanager
    def locked(self, *, half_forgotten: bool = False, ticking: bool = False) -> Iterator[None]:
        """Hold the repository's write lock; it is released when the process ends, even if killed.

        Parameters
        ----------
        half_forgotten : bool
            Accept a repository in which ``sidkit forget`` was interrupted.
        ticking : bool
            For a tick: other commands wait for its end.

        Raises
        ------
        RepoError
            When ``sidkit forget`` was interrupted and must be finished first.
        RepoLockedError
            When another command holds it; only the end of a tick (``sidkit events tick``), which is short, is waited for.
        StorageError
            When the repository cannot be written.
        """
        path = self.path / ".sidkit.lock"
        make_private(path)
        try:
            opened = path.open("a+")
        except OSError as error:
            raise StorageError(path, error) from error
        with opened as file:
            try:
                end, looks = time.monotonic() + _TICK_SECONDS, 0
                while not lock_descriptor(file.fileno(), blocking=False):
                    file.seek(_LOCKED_BYTES if sys.platform == "win32" else 0)
                    holder = file.read().strip()
                    looks = (
                        0 if holder.endswith(_TICKING) else looks + 1
                    )  # one look may see the name of the last holder
                    if ticking or looks > 1 or time.monotonic() > end:
                        raise RepoLockedError(self.path, holder or "holder unknown")
                    time.sleep(_WAIT_SECONDS)
                path.chmod(0o600)
                file.truncate(0)
                command = f"sidkit{_TICKING}" if ticking else _command()
                os.write(file.fileno(), f"{' ' * _LOCKED_BYTES}pid {os.getpid()}: {command}".encode())
            except OSError as error:
                raise StorageError(path, error) from error
            if not half_forgotten:
                refuse_half_forgotten(self.path)
            if (
                not ticking
            ):  # a tick is short; it must not search the folders, nor take files from a service that writes them
                remove_leftovers(self.data)
                remove_leftovers(self.path / "artifacts")
            keep_format(self.path)
            _holders[self.path] = _this_thread()
            try:
                yield
            finally:
                _holders.pop(self.path, None)

    @contextmanager
    def locked_or_held(self) -> Iterator[None]:
        """Like :meth:`locked`, but reentrant within one thread."""
        if _holders.get(self.path) == _this_thread():
            yield
        else:
            with self.locked():
                yield


_holders: dict[Path, tuple[int, int]] = {}
"""Repository -> (process id, thread id) of the lock's holder."""


def _this_thread() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def _command() -> str:
    """The command line of this process without options and their values."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:3]]
    return " ".join(itertools.takewhile(re.compile(r"[a-z_][a-z_.-]*").fullmatch, words)) or "python"


def source_of(path: Path | str) -> str:
    """The source of an existing repository, to be passed as data.

    Raises
    ------
    ConfigError
        When there is no repository, or it has no source.
    """
    folder = typed_path(path)
    if not (folder / SETTINGS_FILE).is_file():
        raise ConfigError(f"expected --data, because {folder} is no repository yet; pass the data, or another --repo")
    url = Repo.open(folder).settings.source.url
    if not url:
        raise ConfigError(
            f"expected --data, because {folder / SETTINGS_FILE} has no source.url; pass the data, or set it"
        )
    return url


def template_folder() -> Path:
    """Template folder copied by ``sidkit init``: packaged data, or ``feature_repo/`` of a source checkout."""
    package = Path(__file__).parent.parent
    packaged = package / "_template"
    return packaged if packaged.is_dir() else package.parent / "feature_repo"


def init_repo(
    path: Path | str,
    *,
    source_url: str = "",
    modalities: tuple[str, ...] = ("text",),
    feedback: str = "impressions",
    conversions: bool = False,
    features: str = "",
    further: Mapping[str, Any] | None = None,
) -> Repo:
    """Create a repository from the template.

    Parameters
    ----------
    path : Path or str
        A new or empty folder.
    source_url, modalities, feedback, conversions
        Values of ``[source]`` in ``sidkit.toml``; see :class:`sidkit.core.config.SourceSettings`.
    features : str
        TOML of the tables ``[features.items]``, ``[features.users]`` and ``[features.context]``.
    further : mapping, optional
        Its other keys, as JSON values.

    Raises
    ------
    RepoError
        When the folder is not empty.
    """
    folder = typed_path(path)
    with _alone_in(folder):
        remove_half_written_repo(folder)
        if any(folder.iterdir()):
            continues = f"continue there with `sidkit run --repo {folder}`, sidkit.open({str(folder)!r}) in Python, or "
            raise RepoError(
                f"expected a new or empty folder, got {folder}, which "
                + (
                    f"is a sidkit repository already; {continues}"
                    if (folder / SETTINGS_FILE).exists()
                    else "is not empty; "
                )
                + "choose another one"
            )
        (folder / "data").mkdir()
        # sidkit.toml is written last: a folder without it is a half-written repository of a killed init.
        for name in sorted(_TEMPLATE_FILES, key=lambda name: name == SETTINGS_FILE):
            text = _template_text(name)
            if name == SETTINGS_FILE:
                text = _set(text, "url", f'"{_toml_string(within(folder, source_url))}"')
                text = _set(text, "modalities", "[" + ", ".join(f'"{name}"' for name in modalities) + "]")
                text = _set(text, "feedback", f'"{feedback}"')
                text = _set(text, "conversions", "true" if conversions else "false")
                text = _with_features(text, features)
                text = _with_further(text, further or {})
            with written_beside(folder / name) as temporary:
                if name == SETTINGS_FILE:
                    make_private(temporary)  # a URL may hold a password
                temporary.write_text(text, encoding="utf-8")
        write_format(folder)
    return Repo.open(folder)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Create a folder and lock it against any other `sidkit init`; the lock leaves no file and ends with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise RepoError(f"expected a new or empty folder, got the file {folder}; choose another one") from error
    except NotADirectoryError as error:
        raise RepoError(f"{folder} cannot be created: a part of its path is a file; choose another folder") from error
    except OSError as error:
        raise StorageError(folder, error) from error
    try:
        with locked_folder(folder, wait=True):
            yield
    except OSError as error:
        raise StorageError(folder, error) from error


def remove_half_written_repo(path: Path) -> None:
    """Empty the folder of a killed ``init`` if it holds only template files and no ``sidkit.toml``."""
    if not path.is_dir() or (path / SETTINGS_FILE).exists():
        return
    remove_leftovers(path)
    entries = list(path.iterdir())
    if all(_is_untouched_template(entry) for entry in entries):
        for entry in entries:
            remove(entry)


def _is_untouched_template(entry: Path) -> bool:
    if entry.name == "data":
        return entry.is_dir() and not any(entry.iterdir())
    if entry.name not in _TEMPLATE_FILES or not entry.is_file():
        return False
    return entry.read_bytes() == _template_text(entry.name).encode()


def _template_text(name: str) -> str:
    return (template_folder() / name).read_text(encoding="utf-8")


def within(folder: Path, source_url: str) -> str:
    """A source's path as it is written in settings: relative if it is inside the repository, so that it may be moved."""
    is_inside = source_url.startswith("/") and folder in Path(source_url).parents
    return f"{_INSIDE}{Path(source_url).relative_to(folder).as_posix()}" if is_inside else source_url


def _set(text: str, key: str, value: str) -> str:
    return re.sub(rf"(?m)^{key} = .*?(?=\s*(#.*)?$)", lambda _: f"{key} = {value}", text, count=1)


def _with_features(text: str, features: str) -> str:
    """Insert tables behind the keys of ``[features]``."""
    end = text.index("\n[", text.index("[features]"))
    return f"{text[:end]}\n{features.rstrip()}\n{text[end:]}" if features else text


def _with_further(text: str, further: Mapping[str, Any]) -> str:
    """The text with further keys of ``[source]``: plain values in its table, tables after it."""
    tables = {key: value for key, value in further.items() if isinstance(value, Mapping)}
    for key, value in further.items():
        if key in tables:
            continue
        line = f"{key} = {toml_value(value)}"
        known = re.search(rf"(?m)^{key} = ", text) is not None
        text = _set(text, key, toml_value(value)) if known else text.replace("\n\n[time]", f"\n{line}\n\n[time]", 1)
    written = "".join(toml_tables(f"source.{toml_key(key)}", value) for key, value in tables.items())
    return text.replace("\n[time]", f"{written}\n[time]", 1) if written else text


def _toml_string(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
