"""Whether the registry of an open feature store may have changed: reading one again takes longer than a small update."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sidkit.core.repo import Repo

FileStates = list[tuple[int, int, int]]


def file_states(paths: Sequence[Path]) -> FileStates:
    """What changes when a file does: inode, time and size of each file that exists."""
    states = [path.stat() for path in paths if path.exists()]
    return [(state.st_ino, state.st_mtime_ns, state.st_size) for state in states]


class RegistryFiles:
    """The files of a repository's registry and ``feature_store.yaml``, as of the last look."""

    def __init__(self) -> None:
        self._config: FileStates | None = None
        self._registry: list[Path] = []
        self._states: FileStates = []

    def changed(self, repo: Repo) -> bool:
        """Whether either may have changed since the last call; always for a registry in no file of this machine."""
        from sidkit.stores.registry_check import registry_file

        before = self._config, self._states
        self._config = file_states([repo.path / "feature_store.yaml"])
        if self._config != before[0]:
            file = registry_file(repo)
            self._registry = [] if file is None else [file, Path(f"{file}-wal")]
        self._states = file_states(self._registry)
        return not self._states or (self._config, self._states) != before
