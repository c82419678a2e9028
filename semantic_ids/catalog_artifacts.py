"""Artefacts of the records of a catalogue on a shared file system: uploaded before a record, downloaded at the first use."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import TypeVar

from semantic_ids.records import CodebookRecord, RankerRecord
from sidkit.core.errors import ArtifactMissingError
from sidkit.core.repo import Repo
from sidkit.core.shared_artifacts import CODEBOOKS, RANKERS, SharedArtifacts

_WITHOUT_FILES = ("fitting", "purged")

_Record = TypeVar("_Record", CodebookRecord, RankerRecord)


class CatalogArtifacts:
    """The shared artefacts of one repository; without ``artifacts.url`` every method does nothing.

    Parameters
    ----------
    repo : Repo
        The repository.
    """

    def __init__(self, repo: Repo) -> None:
        self._repo = repo

    @cached_property
    def _shared(self) -> SharedArtifacts | None:
        return SharedArtifacts.of(self._repo)

    def publish_codebook(self, name: str) -> None:
        """Upload a codebook that was written locally."""
        if self._shared is not None:
            self._shared.publish(CODEBOOKS, name)

    def publish_ranker(self, name: str) -> None:
        """Upload a ranker that was written locally."""
        if self._shared is not None:
            self._shared.publish(RANKERS, name)

    def fetched(self, record: _Record) -> _Record:
        """Download the files of a record unless the repository has them, intact; returns the record.

        Raises
        ------
        ArtifactError
            When the copy on the shared file system is damaged, or the file system fails.
        """
        if self._shared is not None and record.state not in _WITHOUT_FILES:
            kind = CODEBOOKS if isinstance(record, CodebookRecord) else RANKERS
            with suppress(ArtifactMissingError):  # the loader says so; a record without files can still be purged
                self._shared.fetch(kind, record.name, record.content_hash)
        return record

    def forget_codebook(self, name: str) -> None:
        """Remove a purged codebook from the shared file system."""
        if self._shared is not None:
            self._shared.forget(CODEBOOKS, name)


def recorded_artifacts(
    codebooks: Sequence[CodebookRecord], rankers: Sequence[RankerRecord]
) -> dict[tuple[str, str], str]:
    """Kind and name -> content hash of all records with files."""
    kinds: dict[str, Sequence[CodebookRecord] | Sequence[RankerRecord]] = {CODEBOOKS: codebooks, RANKERS: rankers}
    return {
        (kind, each.name): each.content_hash
        for kind, records in kinds.items()
        for each in records
        if each.state not in _WITHOUT_FILES
    }
