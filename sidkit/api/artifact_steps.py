"""Steps on artefacts that several machines share (``artifacts.url`` in ``sidkit.toml``)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sidkit.api.base import ProjectBase

if TYPE_CHECKING:
    from sidkit.core.artifact_root import Swept
    from sidkit.core.shared_artifacts import Shared


class ArtifactSteps(ProjectBase):
    """Artefacts: uploaded, downloaded and swept. Commands that make or use one transfer it by themselves."""

    def push_artifacts(self) -> list[Shared]:
        """Upload the codebooks, rankers and reports that the shared folder lacks.

        Returns
        -------
        list of Shared
            What was uploaded: ``kind``, ``name``, ``files``, ``size`` (bytes).

        Raises
        ------
        ConfigError
            When ``artifacts.url`` is empty or cannot be used.
        ArtifactError
            When an artefact is damaged, or the file system fails.
        """
        from sidkit.core.shared_artifacts import SharedArtifacts

        with self.repo.locked():
            return SharedArtifacts.required(self.repo).push()

    def pull_artifacts(self) -> list[Shared]:
        """Download the codebooks and rankers of the catalogue that the repository lacks, and the newest reports.

        Files are verified; damaged ones are replaced. Reports are written to ``artifacts/reports``.

        Returns
        -------
        list of Shared
            What was downloaded.

        Raises
        ------
        ConfigError
            When ``artifacts.url`` is empty or cannot be used.
        ArtifactError
            When the shared folder lacks one, or the file system fails.
        """
        from semantic_ids.catalog import Catalog
        from semantic_ids.catalog_artifacts import recorded_artifacts
        from sidkit.core.shared_artifacts import SharedArtifacts

        shared = SharedArtifacts.required(self.repo)
        with self.repo.locked():
            catalog = Catalog.open(self.repo)
            return shared.pull(recorded_artifacts(catalog.codebooks(), catalog.rankers()))

    def list_artifacts(self) -> list[tuple[str, str, int]]:
        """Kind, name and number of versions of everything in the shared folder.

        Raises
        ------
        ConfigError, ArtifactError
            As :meth:`push_artifacts`.
        """
        from sidkit.core.shared_artifacts import SharedArtifacts

        return SharedArtifacts.required(self.repo).listed()

    def sweep_artifacts(self, older_than_hours: float = 24) -> Swept:
        """Remove what interrupted uploads and purged codebooks left in the shared folder.

        Parameters
        ----------
        older_than_hours : float
            Age of the files, at least 24: younger ones may belong to an upload that still runs.

        Returns
        -------
        Swept
            ``removed`` and ``young`` (numbers of files), ``size`` (bytes).

        Raises
        ------
        ConfigError, ArtifactError
            As :meth:`push_artifacts`.
        """
        from sidkit.core.shared_artifacts import SharedArtifacts

        return SharedArtifacts.required(self.repo).sweep(timedelta(hours=older_than_hours))
