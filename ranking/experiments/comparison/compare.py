"""Compare arms: the entry of ``sidkit ranker compare`` and of the Python API."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ranking.experiments.comparison.arms import PAPERS, load_arms, optional_arms
from ranking.experiments.comparison.comparison import CompareOptions, Comparison
from ranking.experiments.comparison.results import ComparisonResult
from ranking.experiments.comparison.tables import merge_rows
from ranking.pipeline.prepare import prepare_repo
from ranking.pipeline.presets import arm_modules, load_preset
from semantic_ids.fitting import codebook_modules
from sidkit.core.extras import require
from sidkit.core.files import check_output
from sidkit.core.progress import SILENT, Progress
from sidkit.core.repo import Repo


def compare_arms(
    repo: Repo | Path,
    data: str,
    arms: Sequence[str] = (PAPERS,),
    *,
    seeds: int = 3,
    origins: int = 3,
    preset: str = "rqkmeans",
    max_train_rows: int | None = None,
    max_evaluation_rows: int | None = None,
    jobs: int = 1,
    impressions: int = 200_000,
    own_sizes: bool = False,
    results: Path | None = None,
    html: Path | None = None,
    progress: Progress | None = None,
) -> ComparisonResult:
    """Train and compare arms on the same rows and features, with paired differences.

    Holds the repo's lock. Finished trials are reused, so an interrupted comparison resumes.

    Parameters
    ----------
    repo : Repo or Path
        The repo or its folder, which is created if missing.
    data : str
        A folder, a SQLAlchemy URL, a built-in data set or a plug-in.
    arms : sequence of str
        Names, numbers in the papers' table, paths of ``.toml`` files; ``papers`` are the arms of both papers with their
        baselines, and ``all`` every shipped arm that the data allow: others are skipped, each with the reason in ``skipped``
        of the result.
    seeds, origins : int
        Seeds per arm and time origin, and number of time origins: the split, moved back by one test window at a time. With
        one seed there are no verdicts.
    preset : str
        Preset whose ranker settings all arms share.
    max_train_rows, max_evaluation_rows : int, optional
        Sample users to about this many rows; default: the preset's limits.
    jobs : int
        Training processes, one thread each.
    impressions : int
        Number of impressions of a generated data set.
    own_sizes : bool
        Use the preset's widths instead of scaling arms to the parameter count of ``id_codes``.
    results : Path, optional
        JSON file for the result rows; its rows of the same data are replaced.
    html : Path, optional
        File for a self-contained HTML page.
    progress : Progress, optional
        Receives events while the trials run; default: none.

    Raises
    ------
    ConfigError
        When an arm or the preset is invalid, or the repo was created for other data.
    MissingExtraError
        When an optional package is not installed; nothing has been written then.
    StorageError
        When an output path cannot be written.
    RepoLockedError
        When another command is writing to the repo.
    """
    for path in filter(None, (results, html)):
        check_output(path)
    selected = load_arms(list(arms))
    spec = load_preset(preset).ranker
    codebooks = [module for arm in selected.values() for module in codebook_modules(arm.codebook_spec())]
    modules = ["torch", "safetensors", *codebooks, *arm_modules(selected.values())]
    require(*modules, purpose="this comparison", extra="rank")
    limits = {"max_train_rows": max_train_rows, "max_evaluation_rows": max_evaluation_rows}
    caps = {name: limit for name, limit in limits.items() if limit is not None}
    spec = spec.model_copy(update={"training": spec.training.model_copy(update=caps)})
    optional = optional_arms(arms)
    options = CompareOptions(data, selected, spec, seeds, origins, jobs, impressions, not own_sizes, optional)
    opened = prepare_repo(data, repo.path if isinstance(repo, Repo) else repo)
    with opened.locked():
        result = Comparison(opened, options, progress or SILENT).run()
    if results is not None:
        merge_rows(results, [row.as_json() for row in result.evaluation.rows])
    if html is not None:
        from ranking.experiments.comparison.report import write_page

        write_page([result.as_json()], html)
    return result
