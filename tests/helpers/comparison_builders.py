"""Small comparisons for tests: every arm trains for one epoch on few rows."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.builders import few_trees, forking, one_thread
from sidkit.core.repo import Repo

IMPRESSIONS = 6_000


def compare(path: Path, arms: Sequence[str], data: str = "synthetic", **options: Any) -> tuple[Repo, dict[str, Any]]:
    """Compare arms in this process and return the JSON of the result; ``options`` are those of :class:`CompareOptions`."""
    from ranking.experiments.comparison.arms import load_arms
    from ranking.experiments.comparison.comparison import CompareOptions, Comparison
    from ranking.pipeline.prepare import prepare_repo

    repo = prepare_repo(data, path)
    one_thread(repo)
    told: Mapping[str, Any] = {"seeds": 1, "origins": 1, "impressions": IMPRESSIONS, "spec": small_spec(), **options}
    with repo.locked(), few_trees():
        result = Comparison(repo, CompareOptions(data, load_arms(arms), **told)).run()
    return repo, result.as_json()


@contextlib.contextmanager
def forked_workers() -> Iterator[None]:
    """Let the workers of a comparison be forked after the imports, which take longer than small trials."""
    context = forking()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(multiprocessing, "get_context", lambda _: context)
        yield


def small_spec(max_train_rows: int = 2000) -> Any:
    """One epoch over few rows."""
    from ranking.pipeline.presets import load_preset

    spec = load_preset("rqkmeans").ranker
    training = {"epochs": 1, "learning_rate": 0.003, "max_train_rows": max_train_rows, "max_evaluation_rows": 8000}
    return spec.model_copy(update={"training": spec.training.model_copy(update=training)})


def arm_file(folder: Path, name: str, text: str) -> str:
    """An arm of one's own; returns what ``--arms`` takes."""
    path = folder / f"{name}.toml"
    path.write_text(f'title = "{name} of a test"\n{text}')
    return str(path)
