"""Register a model of the user's as a ranker, after checking that it can be served."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ranking.data.codebook_window import refuse_learned_rows
from ranking.data.project_dataset import ProjectDataset
from ranking.data.service_schema import features_read, pinned_features
from ranking.training.arms import TrainedOn
from ranking.training.external_ranker import EXTERNAL_RANKERS, ExternalRanker
from ranking.training.registered_ranker import RegisteredConfig, RegisteredRanker, checked_scores, loaded
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import load_committed
from semantic_ids.lookup import published
from semantic_ids.records import RankerRecord
from sidkit.core.arrays import Doubles
from sidkit.core.errors import ConfigError, LifeCycleError, PluginError
from sidkit.core.names import LONGEST_MADE, check_name
from sidkit.core.repo import Repo
from sidkit.core.temporary import temporary_folder

_CHECKED_ROWS = 200
_TOLERANCE = 1e-4


def register_ranker(repo: Repo, name: str, model: ExternalRanker, trained_on: Sequence[ProjectDataset]) -> RankerRecord:
    """Write the artefact of an external ranker and record it in the catalogue; see ``Project.register_ranker``.

    The caller must hold the repository's lock.
    """
    from sidkit.stores.feast_repo import open_store

    check_name("ranker", name, LONGEST_MADE)
    catalog = Catalog.open(repo)
    existing = {record.name: record for record in catalog.rankers()}.get(name)
    if existing is not None:
        raise LifeCycleError(name, existing.state, "a ranker is never overwritten; register it under a new name")
    _check_rows(trained_on)
    first = trained_on[0]
    record = published(repo, first.codebook.name)
    if record.content_hash != first.codebook.content_hash:
        raise ConfigError(f"the rows have codes of an earlier codebook {record.name}; create them again with dataset()")
    codebook = load_committed(repo.codebooks / record.name, record)[0]
    reference = _reference_of(type(model))
    _check_model(model, EXTERNAL_RANKERS.find(reference), first)
    label = np.concatenate([part.data.rows.label for part in trained_on])
    at_us = np.concatenate([part.data.rows.at_us for part in trained_on])
    remedy = f'Train on project.rows("train", codebook="{record.name}"), which leaves these rows out'
    refuse_learned_rows(int(at_us.min()), record, codebook, remedy)
    config = RegisteredConfig(
        ranker_class=reference,
        rate=first.rate,
        positives=float(label.mean()),
        sizes=record.sizes,
        residual_levels=codebook.quantizer.residual_levels,
        codebook=record.name,
        codebook_hash=record.content_hash,
        service=record.service_name,
        features=features_read(first.data.schema, pinned_features(open_store(repo), record.service_name)),
        history_length=repo.settings.time.history_length,
        schema=first.data.schema,
    ).of_vectors(first.data.items.vectors)
    arm = type(model).__name__
    facts = {"name": name, "codebook": record.name, "service": record.service_name, "arm": arm}
    trained = TrainedOn(
        fit_start_us=int(at_us.min()),
        fit_end_us=max(int(at_us.max()) + 1, record.fit_end_us),  # the codes have seen what their codebook has
        parents=(record.name,),
        feature_settings=repo.settings.feature_settings(),
        rows=len(label),
    )
    ranker = RegisteredRanker(model, config, record)
    manifest = ranker.save(repo.rankers / name, {**facts, **trained.as_json()})
    catalog.add_ranker(
        name,
        content_hash=manifest["content_hash"],
        codebook=record.name,
        service=record.service_name,
        arm=arm,
        fit_end_us=trained.fit_end_us,
    )
    return catalog.ranker(name)


def _check_rows(parts: Sequence[ProjectDataset]) -> None:
    if not parts or not all(part.labelled and len(part) for part in parts):
        raise ConfigError(
            "expected trained_on= with the labelled rows that the model has seen, got none, or rows without labels; pass "
            "project.dataset(project.rows('train'))"
        )
    kinds = sorted({part.data.items.vectors for part in parts})
    if len(kinds) > 1:
        raise ConfigError(
            f"expected all rows of trained_on= with the same item vectors, got {' and '.join(kinds)}; pass the same vectors= "
            "to dataset()"
        )
    stated = {(part.codebook.name, part.codebook.content_hash, part.rate) for part in parts}
    if len(stated) > 1:
        listed = ", ".join(f"{name} with rate {rate:.6g}" for name, _, rate in sorted(stated))
        raise ConfigError(
            f"expected all rows of trained_on= with one codebook and one rate, got {listed}; pass the same codebook= and rate= "
            "to dataset()"
        )


def _reference_of(kind: type[ExternalRanker]) -> str:
    """The reference of a class with the hash of its file."""
    remedy = "write the class in a file of its own, such as my_ranker.py, and import it from there"
    if not isinstance(kind, type) or not issubclass(kind, ExternalRanker):
        raise PluginError(
            f"expected an instance of a class that derives from ranking.ExternalRanker, got a {kind.__name__}; wrap the model "
            "in such a class"
        )
    if kind.__module__ == "__main__" or "." in kind.__qualname__:
        raise PluginError(f"{kind.__qualname__} is not at the top level of an imported module; {remedy}")
    try:
        file = inspect.getsourcefile(kind)
    except TypeError:  # defined in a notebook or an interactive session
        file = None
    if file is None or not Path(file).is_file():
        raise PluginError(f"{kind.__name__} has no source file; {remedy}")
    return EXTERNAL_RANKERS.resolved(f"{file}:{kind.__name__}")


def _check_model(model: ExternalRanker, kind: type[ExternalRanker], rows: ProjectDataset) -> None:
    """Raise unless the saved and loaded model scores like the model, each row on its own."""
    index = np.unique(np.linspace(0, len(rows) - 1, _CHECKED_ROWS).astype(np.int64))
    sample = rows.take(index)
    sample = ProjectDataset(sample.data, sample.codebook, labelled=False, rate=sample.rate)
    name = kind.__name__
    expected = checked_scores(model, sample)
    with temporary_folder() as folder:
        model.save(folder)
        if not any(folder.iterdir()):
            raise PluginError(f"{name}.save wrote no file; write everything that score needs to the folder")
        again = loaded(kind, folder)
        difference = _difference(expected, checked_scores(again, sample))
    if difference > _TOLERANCE:
        raise PluginError(
            f"expected {name}.load to restore the model, but its scores differ by up to {difference:.3g}; save everything that "
            "score needs"
        )
    few = np.arange(0, len(sample), max(len(sample) // 5, 1))
    alone = np.concatenate([checked_scores(again, sample.take(few[place : place + 1])) for place in range(len(few))])
    difference = _difference(expected[few], alone)
    if difference > _TOLERANCE:
        raise PluginError(
            f"expected {name}.score to score each row on its own, but scores change by up to {difference:.3g} with the other "
            "rows; put a torch model into eval() mode, and fit nothing in score"
        )


def _difference(one: Doubles, other: Doubles) -> float:
    return float(np.abs(one - other).max(initial=0.0))
