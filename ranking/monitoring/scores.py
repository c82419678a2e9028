"""Scores of rows with the ranker that served them."""

from __future__ import annotations

from ranking.data.dataset import Dataset
from ranking.training.calibration import Calibration
from ranking.training.load_ranker import LoadedRanker, load_ranker
from semantic_ids.catalog import Catalog
from sidkit.core.arrays import Doubles
from sidkit.core.errors import ArtifactMissingError, SidkitError
from sidkit.core.redact import scrubbed
from sidkit.core.repo import Repo


class RankerScores:
    """Scores datasets with a ranker as its service does.

    Parameters
    ----------
    repo : Repo
        The repository.
    name : str
        The ranker.
    content_hash : str, optional
        Its content; a ranker of the same name with other content is refused.

    Raises
    ------
    UnknownVersionError
        When there is no such ranker.
    ArtifactMissingError
        When it has other content.
    ArtifactError, MissingExtraError
        When it cannot be loaded.
    """

    def __init__(self, repo: Repo, name: str, content_hash: str | None = None) -> None:
        catalog = Catalog.open(repo)
        record = catalog.ranker(name)
        if content_hash is not None and record.content_hash != content_hash:
            raise ArtifactMissingError(
                f"expected ranker {name} with hash {content_hash}, which served the rows, got {record.content_hash}"
            )
        self.ranker: LoadedRanker = load_ranker(repo.rankers / name, catalog.codebook(record.codebook), "scoring")
        self._calibration = Calibration.of(repo.settings, self.ranker.config.target, self.ranker.positive_rate)

    def __call__(self, data: Dataset) -> Doubles:
        """Probabilities ``float64 [rows]``."""
        return self._calibration.apply(self.ranker.score(data))


def scores_of(repo: Repo, name: str, content_hash: str) -> RankerScores | str:
    """The scores of a ranker, or why it cannot be loaded."""
    try:
        return RankerScores(repo, name, content_hash)
    except SidkitError as error:
        return scrubbed(error)
