"""The validated log of a repository: its manifest and the files that it lists (``data/log``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidkit.core.errors import ArtifactMissingError
from sidkit.core.files import remove
from sidkit.core.integrity import MANIFEST, hashes_of, read_verified, update_sealed
from sidkit.core.repo import Repo
from sidkit.tables.log_changes import number_of

PARTS = "interactions"
"""Folder of the parts, and of the files of removed rows."""
FORMAT = 2
"""Format 2: one row per event, none later than the ingest. A log without a number is from an older release."""


@dataclass(frozen=True)
class Log:
    """The validated log of a repository; ``users`` is None if the source has no such table."""

    parts: tuple[Path, ...]
    items: Path
    embeddings: Path
    users: Path | None
    manifest: dict[str, Any]

    @property
    def mark(self) -> dict[str, Any]:
        """Fingerprint of the log's rows as JSON values."""
        snapshots = {name: snapshot["mark"] for name, snapshot in self.manifest["snapshots"].items()}
        return {"parts": [part["mark"] for part in self.manifest["parts"]], **snapshots}

    @property
    def folder(self) -> Path:
        """Folder of the parts."""
        return self.items.parent / PARTS

    @property
    def consumed(self) -> dict[str, Any]:
        """State of the log that a build records, for the methods below."""
        parts = [part["file"] for part in self.manifest["parts"]]
        known = {name: self.manifest.get(name) for name in ("id", "source_items")}
        return {**known, "parts": parts, "mark": self.mark, "ingests": ingests_of(self.manifest)}

    def continues(self, consumed: dict[str, Any]) -> bool:
        """Whether this log is a continuation of the recorded one, rather than one that was deleted and recreated."""
        known = consumed.get("id")
        return known in {None, self.manifest.get("id")} and ingests_of(self.manifest) >= ingests_of(consumed)

    def is_that_of(self, consumed: dict[str, Any]) -> bool:
        """Whether the log is unchanged since a build recorded its state."""
        return all(consumed[name] == self.consumed[name] for name in ("parts", "mark"))

    def since(self, consumed: dict[str, Any]) -> tuple[Path, ...]:
        """Files with rows added or removed since a build recorded the log's state."""
        entries = [*self.manifest["parts"], *self.manifest.get("removed", [])]
        return tuple(self.folder / entry["file"] for entry in entries if number_of(entry) >= ingests_of(consumed))

    def lost_since(self, consumed: dict[str, Any]) -> bool:
        """Whether rows were removed since a build recorded the log's state."""
        return any(number_of(entry) >= ingests_of(consumed) for entry in self.manifest.get("removed", []))

    @property
    def rows(self) -> int:
        """Number of interactions in all parts."""
        return sum(part["rows"] for part in self.manifest["parts"])

    @property
    def first_us(self) -> int:
        """Time of the first event, microseconds UTC."""
        return min(int(part["first_us"]) for part in self.manifest["parts"])

    @property
    def last_us(self) -> int:
        """Time of the last event, microseconds UTC."""
        return max(int(part["last_us"]) for part in self.manifest["parts"])


def has_log(repo: Repo) -> bool:
    """Whether a log was ingested."""
    return (repo.log / MANIFEST).exists()


def read_log(repo: Repo) -> Log:
    """Read the validated log of a repository.

    Raises
    ------
    ArtifactMissingError
        When no log was ingested yet.
    ArtifactCorruptError
        When a file of the log is missing or damaged.
    """
    path = repo.log / MANIFEST
    if not path.exists():
        raise ArtifactMissingError(
            f"expected a log in {repo.log}, got none; run `sidkit data ingest --repo {repo.path}` first"
        )
    manifest = read_verified(path)
    parts = tuple(repo.log / PARTS / part["file"] for part in manifest["parts"])
    snapshots = {name: repo.log / snapshot["file"] for name, snapshot in manifest["snapshots"].items()}
    return Log(parts, snapshots["items"], snapshots["item_embeddings"], snapshots.get("users"), manifest)


def write_log(repo: Repo, manifest: dict[str, Any]) -> None:
    """Write the manifest of the log, which makes its files the log; a manifest that does not change is not written."""
    stated = {key: value for key, value in manifest.items() if key not in {"files", "manifest_hash"}}
    update_sealed(repo.log / MANIFEST, {**stated, "files": hashes_of(repo.log, listed_files(stated))})


def remove_unlisted(folder: Path, manifest: dict[str, Any]) -> None:
    """Remove parts and snapshots that the manifest does not list."""
    for file in unlisted_files(folder, manifest):
        remove(file)


def unlisted_files(folder: Path, manifest: dict[str, Any]) -> list[Path]:
    """Parts and snapshots in a log's folder that its manifest does not list."""
    listed = set(listed_files(manifest))
    held = (*folder.glob("*.parquet"), *(folder / PARTS).glob("*.parquet"))
    return [file for file in held if file.relative_to(folder).as_posix() not in listed]


def listed_files(manifest: dict[str, Any]) -> list[str]:
    """The files of a log, relative to its folder."""
    parts = [f"{PARTS}/{entry['file']}" for entry in (*manifest["parts"], *manifest.get("removed", []))]
    return parts + [snapshot["file"] for snapshot in manifest["snapshots"].values()]


def ingests_of(noted: dict[str, Any]) -> int:
    """Number of ingests that changed a log's events, from its manifest or a build's record of it."""
    return int(noted.get("ingests", len(noted["parts"])))
