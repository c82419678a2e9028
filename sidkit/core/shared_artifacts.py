"""The artefacts of a repository on the file system that ``artifacts.url`` names; the repository's folder is a verified cache.

An artefact is written locally, uploaded, and recorded in the catalogue last. So whatever a catalogue of several machines
names can be read on all of them: :meth:`SharedArtifacts.fetch` downloads it when it is first used.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from sidkit.core.artifact import read_manifest
from sidkit.core.artifact_root import CONTENT_HASH, KINDS, SWEEP_AFTER, ArtifactRoot, Swept, Uploaded
from sidkit.core.config import content_hash, resolved_url
from sidkit.core.errors import ArtifactCorruptError, ArtifactError, ConfigError
from sidkit.core.integrity import FILES, hashes_of, say_discarded, seal
from sidkit.core.repo import Repo

CODEBOOKS, RANKERS, REPORTS = "codebooks", "rankers", "reports"
_REPORT_FILES = ("report.html", "verdict.json")


@dataclass(frozen=True)
class Shared:
    """One artefact after a push or a pull: its kind and name, and the files and bytes that were transferred."""

    kind: str
    name: str
    files: int
    size: int


class SharedArtifacts:
    """The artefacts of one repository and their shared root. Open it with :meth:`of`."""

    def __init__(self, repo: Repo, url: str) -> None:
        self._folders = {CODEBOOKS: repo.codebooks, RANKERS: repo.rankers, REPORTS: repo.path / "artifacts" / REPORTS}
        self._runs = repo.runs
        self._url = url

    @cached_property
    def root(self) -> ArtifactRoot:
        """The shared root, opened when something is transferred: intact local copies need none.

        Raises
        ------
        ConfigError
            When no file system has such a URL, or its package is not installed.
        """
        return ArtifactRoot(self._url)

    @classmethod
    def of(cls, repo: Repo) -> SharedArtifacts | None:
        """The shared artefacts of a repository; None if ``artifacts.url`` is empty.

        Raises
        ------
        ConfigError
            When the environment variable that it names is not set.
        """
        stated = repo.settings.artifacts.url
        return cls(repo, resolved_url(stated)) if stated else None

    @classmethod
    def required(cls, repo: Repo) -> SharedArtifacts:
        """Like :meth:`of`.

        Raises
        ------
        ConfigError
            Also when ``artifacts.url`` is empty.
        """
        shared = cls.of(repo)
        if shared is None:
            raise ConfigError(
                f"expected artifacts.url in {repo.path / 'sidkit.toml'}, got none; set it to a folder that the machines share, "
                'such as [artifacts] url = "s3://bucket/prefix"'
            )
        return shared

    def publish(self, kind: str, name: str) -> Uploaded:
        """Upload an artefact that was written locally, before the catalogue records it. Repeating it writes nothing.

        Raises
        ------
        ArtifactError
            When it is missing or damaged, or the file system fails.
        """
        folder = self._folders[kind] / name
        return self.root.upload(kind, name, folder, read_manifest(folder))

    def fetch(self, kind: str, name: str, recorded: str) -> bool:
        """Download an artefact unless the repository has an intact copy. Files are read once per process.

        Parameters
        ----------
        kind, name : str
            The artefact.
        recorded : str
            Its content hash in the catalogue.

        Returns
        -------
        bool
            Whether it was downloaded.

        Raises
        ------
        ArtifactError
            When the root has no intact copy, or the file system fails.
        """
        folder = self._folders[kind] / name
        if folder.is_dir():
            try:
                if read_manifest(folder)[CONTENT_HASH] == recorded:
                    return False
            except ArtifactCorruptError as error:
                say_discarded(error.path, error.problem)
        self.root.download(kind, name, recorded, folder)
        return True

    def forget(self, kind: str, name: str) -> None:
        """Remove an artefact from the root."""
        self.root.remove(kind, name)

    def publish_report(self, run: str) -> Uploaded | None:
        """Upload the report of a run; None if there is none.

        Parameters
        ----------
        run : str
            Name of the run's folder: that of its preset.
        """
        folder = self._runs / run
        files = hashes_of(folder, [name for name in _REPORT_FILES if (folder / name).is_file()])
        if not files:
            return None
        manifest = seal({"kind": "report", "name": run, FILES: files, CONTENT_HASH: content_hash(files)})
        return self.root.upload(REPORTS, run, folder, manifest)

    def listed(self) -> list[tuple[str, str, int]]:
        """Kind, name and number of versions of everything on the root."""
        names = [(kind, name) for kind in KINDS for name in self.root.names(kind)]
        return [(kind, name, len(self.root.versions(kind, name))) for kind, name in names]

    def push(self) -> list[Shared]:
        """Upload all codebooks, rankers and reports of the repository that the root does not have.

        Raises
        ------
        ArtifactError
            When one is damaged, or the file system fails.
        """
        done = []
        for kind in (CODEBOOKS, RANKERS):
            for path in sorted(self._folders[kind].glob("[!.]*/manifest.json")):
                uploaded = self.publish(kind, path.parent.name)
                done.append(Shared(kind, path.parent.name, uploaded.written, uploaded.size))
        for run in sorted(path.name for path in self._runs.glob("[!.]*") if path.is_dir()):
            if sent := self.publish_report(run):
                done.append(Shared(REPORTS, run, sent.written, sent.size))
        return [each for each in done if each.files]

    def pull(self, recorded: dict[tuple[str, str], str]) -> list[Shared]:
        """Download artefacts that the repository lacks or whose files are damaged, and the newest reports.

        Parameters
        ----------
        recorded : dict
            Kind and name -> content hash in the catalogue.

        Raises
        ------
        ArtifactError
            When the root lacks one, or the file system fails.
        """
        reports = {(REPORTS, name): self.root.versions(REPORTS, name) for name in self.root.names(REPORTS)}
        newest = {key: str(versions[-1][CONTENT_HASH]) for key, versions in reports.items() if versions}
        done = []
        for (kind, name), wanted in {**recorded, **newest}.items():
            if self.fetch(kind, name, wanted):
                folder = self._folders[kind] / name
                sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
                done.append(Shared(kind, name, len(sizes), sum(sizes)))
        return done

    def pull_unrecorded(self) -> None:
        """Download the newest version of every codebook and ranker that the repository lacks: a catalogue that was lost is
        rebuilt from them. What cannot be read is left out.
        """
        for kind in (CODEBOOKS, RANKERS):
            for name in self.root.names(kind):
                if self._folder_of(kind, name).exists():
                    continue
                try:
                    versions = self.root.versions(kind, name)
                    self.root.download(kind, name, str(versions[-1][CONTENT_HASH]), self._folder_of(kind, name))
                except ArtifactCorruptError:
                    continue

    def sweep(self, older_than: timedelta = SWEEP_AFTER) -> Swept:
        """Remove files of interrupted uploads and of removed artefacts; see :meth:`ArtifactRoot.sweep`."""
        return self.root.sweep(older_than=older_than)

    def _folder_of(self, kind: str, name: str) -> Path:
        if not name or name.startswith(".") or "/" in name:
            raise ArtifactError(
                f"expected plain names in {self.root.url}, got {kind}/{name!r}; remove that folder there"
            )
        return self._folders[kind] / name


def share_report(repo: Repo, run: str) -> None:
    """Upload the report of a run, if artefacts are shared; see :meth:`SharedArtifacts.publish_report`."""
    shared = SharedArtifacts.of(repo)
    if shared is not None:
        shared.publish_report(run)
