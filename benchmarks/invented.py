"""Whether rankers find what clicks depend on: an invented log with four causes, each given to the rankers alone.

    python benchmarks/invented.py [--work .work/invented] [--seeds 2]

Clicks depend on one attribute of users, one of items, one feature of the user's own view, and one habit (user x category). For
each cause, boosting and the arm `content` train with the built-in features and the features of this cause only. Their gain in
test AUC over the built-in features alone is compared with that of the true form: a logistic regression on the built-in
features and the cause's own terms, fitted on the same observed point-in-time features. A control has the values shuffled
among the rows. Results go to ``benchmarks/results/invented.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from arms import ROOT

from ranking.data.dataset import Dataset, read_rows
from ranking.data.numeric_features import model_features, numeric_columns
from ranking.data.schema import BUILT_IN
from ranking.data.split import TimeSplit
from ranking.evaluation.metrics import auc
from ranking.pipeline.prepare import Prepared, end_of_log, feature_inputs, training_context
from ranking.pipeline.presets import load_preset
from ranking.training.arms import TrainingContext, train_arm
from sidkit.core.clock import DAY_US
from sidkit.core.files import write_json
from sidkit.core.repo import Repo
from sidkit.core.stages import Stages
from sidkit.datasets.data_repo import create_repo
from sidkit.tables.labelled_rows import log_moments

RESULTS = ROOT / "benchmarks" / "results" / "invented.json"
START_US = 1_704_067_200_000_000
USERS, ITEMS, EVENTS, DAYS = 3_000, 2_000, 60_000, 40
COUNTRIES, BRANDS, CATEGORIES = 6, 8, 6
CAUSES = {
    "user attribute": ("user_attributes__country",),
    "item attribute": ("item_attributes__brand",),
    "own view": ("mood__level",),
    "habit": ("affinity__category_*", "user_category_stats__*"),
}
"""Cause -> the features that a ranker is given."""
VIEW = '''
"""An own feature view: the mood of users."""

from pathlib import Path

from entities import user
from feast import FeatureView, Field, FileSource
from feast.types import Float64

mood = FeatureView(
    name="mood", entities=[user], schema=[Field(name="level", dtype=Float64)],
    source=FileSource(
        name="mood_source", path=str(Path(__file__).resolve().parent / "own" / "mood.parquet"),
        timestamp_field="event_timestamp", created_timestamp_column="created_timestamp",
    ),
)
'''


def write_world(folder: Path, seed: int = 0) -> pa.Table:
    """Write the source; returns the rows of the own view."""
    rng = np.random.default_rng(seed)
    country, favourite = rng.integers(COUNTRIES, size=USERS), rng.integers(CATEGORIES, size=USERS)
    brand, category = rng.integers(BRANDS, size=ITEMS), rng.integers(CATEGORIES, size=ITEMS)
    user, item = rng.integers(USERS, size=EVENTS), rng.integers(ITEMS, size=EVENTS)
    at_us = START_US + np.sort(rng.integers(0, DAYS * DAY_US, size=EVENTS))
    level = rng.normal(size=(USERS, DAYS + 1))
    day = (at_us - START_US) // DAY_US
    logit = (
        -1.8
        + 1.0 * np.isin(country[user], [1, 4])
        + 1.0 * np.isin(brand[item], [0, 3, 5])
        + 1.0 * np.maximum(level[user, day], 0)
        + 1.6 * (category[item] == favourite[user])
    )
    label = rng.random(EVENTS) < 1 / (1 + np.exp(-logit))
    utc = pa.timestamp("us", "UTC")
    folder.mkdir(parents=True)
    tables = {
        "interactions": {
            "user_id": [f"u{n}" for n in user],
            "item_id": [f"i{n}" for n in item],
            "timestamp": pa.array(at_us, pa.int64()).cast(utc),
            "label": pa.array(label.astype(np.int8)),
        },
        "items": {
            "item_id": [f"i{n}" for n in range(ITEMS)],
            "created_at": pa.array([START_US - DAY_US] * ITEMS, pa.int64()).cast(utc),
            "brand": [f"b{n}" for n in brand],
            "category": [f"c{n}" for n in category],
        },
        "item_embeddings": {
            "item_id": [f"i{n}" for n in range(ITEMS)],
            "text": pa.array(rng.normal(size=(ITEMS, 8)).astype(np.float32).tolist(), pa.list_(pa.float32())),
        },
        "users": {"user_id": [f"u{n}" for n in range(USERS)], "country": [f"k{n}" for n in country]},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    moments = pa.array(np.tile(START_US + np.arange(DAYS + 1) * DAY_US, USERS), pa.int64()).cast(utc)
    owner = np.repeat(np.arange(USERS), DAYS + 1)
    return pa.table(
        {
            "user_id": [f"u{n}" for n in owner],
            "event_timestamp": moments,
            "created_timestamp": moments,
            "level": level.ravel(),
        }
    )


def prepared(work: Path) -> tuple[TrainingContext, Any]:
    """The frame with all features, and the preset."""
    shutil.rmtree(work, ignore_errors=True)
    mood = write_world(work / "source")
    repo = create_repo(work / "repo", str(work / "source"))
    (repo.path / "own").mkdir()
    pq.write_table(mood, repo.path / "own" / "mood.parquet")
    (repo.path / "my_views.py").write_text(VIEW)
    services = repo.path / "services.py"
    text = services.read_text()
    services.write_text(text.replace("import item_views\n", "import item_views\nfrom my_views import mood\n", 1))
    settings = repo.path / "sidkit.toml"
    text = settings.read_text().replace("[features]\n", '[features]\naffinity = ["category"]\n', 1)
    settings.write_text(text.replace("extra = [", 'extra = ["mood:level", ', 1))
    repo = Repo.open(repo.path)
    preset = load_preset("rqkmeans")
    folder = repo.runs / "invented"
    with repo.locked():
        stages = Prepared(repo, Stages(folder / "stages.json"), str(work / "source"), 0)
        log = stages.ingest()
        split = TimeSplit.of(log_moments(repo), repo.settings.split)
        rows = stages.rows(log)
        tables = stages.tables(log, end_of_log(repo))
        codebook = stages.codebook("invented", preset.codebook, split.train_end_us, [log, tables.facts])
        inputs = [log, codebook, *feature_inputs(repo.settings.features)]
        caps = preset.ranker.training.caps
        stages.frame("frame", inputs, codebook, read_rows(rows.files[0]), split, caps, folder / "frame")
    return training_context(repo, codebook, split, folder / "frame", preset.ranker, None, threads=2), preset


def shuffled(data: Dataset, seed: int) -> Dataset:
    """The rows with the values of every extra feature permuted among them; of item attributes among the items."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data))
    built_in = len(numeric_columns())
    numeric = data.numeric.copy()
    numeric[:, built_in:] = numeric[order][:, built_in:]
    coded = data.coded.take(order) if data.coded is not None else None
    attributes = data.items.attributes
    if attributes is not None:
        attributes = attributes.take(np.random.default_rng(99).permutation(len(attributes.codes)))
    return dataclasses.replace(
        data, numeric=numeric, coded=coded, items=dataclasses.replace(data.items, attributes=attributes)
    )


def true_terms(data: Dataset, cause: str) -> np.ndarray:
    """The true form of a cause on observed features, ``float64 [rows, terms]``."""
    columns = numeric_columns(data.schema)
    if cause == "own view":
        level = np.nan_to_num(data.numeric[:, columns.index("mood__level")])
        return np.maximum(level, 0)[:, None]
    if cause == "habit":
        names = [each for each in columns if "rate_all" in each and each.startswith("user_category")]
        names += ["affinity__category_share"]
        return np.stack([data.numeric[:, columns.index(name)] for name in names], axis=1).astype(np.float64)
    item = cause == "item attribute"
    features = data.schema.item_coded if item else data.schema.row_coded
    at = [each.name for each in features].index(CAUSES[cause][0])
    coded = data.items.attributes if item else data.coded
    assert coded is not None
    codes = coded.codes[data.candidate, at] if item else coded.codes[:, at]
    wanted = {f"b{n}" for n in (0, 3, 5)} if item else {f"k{n}" for n in (1, 4)}
    caused = np.array([value in wanted for value in coded.values[at].to_pylist()])
    return caused[codes].astype(np.float64)[:, None]


def logistic_auc(train: Dataset, test: Dataset, terms: tuple[np.ndarray, np.ndarray] | None) -> float:
    """Test AUC of a logistic regression on the built-in features and further terms."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    built_in = len(numeric_columns())
    inputs = [model_features(part.numeric[:, :built_in]).astype(np.float64) for part in (train, test)]
    if terms is not None:
        inputs = [np.concatenate([left, right], axis=1) for left, right in zip(inputs, terms, strict=True)]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(inputs[0], train.rows.label)
    return auc(test.rows.label, model.predict_proba(inputs[1])[:, 1])


def trained(context: TrainingContext, preset: Any, arm: str, features: tuple[str, ...], seeds: int) -> float:
    """Mean test AUC over seeds."""
    spec = preset.arms[arm].model_copy(update={"features": features})
    return float(
        np.mean([auc(context.test.rows.label, train_arm(context, arm, spec, seed, arm).test) for seed in range(seeds)])
    )


def main() -> None:
    """Measure all causes and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "invented")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    context, preset = prepared(options.work)
    mixed = dataclasses.replace(
        context,
        train=shuffled(context.train_in_memory(), 1),
        validation=shuffled(context.validation, 2),
        test=shuffled(context.test, 3),
    )
    train = context.train_in_memory()
    base = logistic_auc(train.narrowed(BUILT_IN), context.test.narrowed(BUILT_IN), None)
    plain = {arm: trained(context, preset, arm, (), options.seeds) for arm in ("gbdt", "content")}
    results: dict[str, Any] = {"built-in": {"logistic": base, **plain}, "causes": {}}
    for cause, features in CAUSES.items():
        terms = (true_terms(train, cause), true_terms(context.test, cause))
        row: dict[str, float] = {"true form": logistic_auc(train, context.test, terms) - base}
        for arm in ("gbdt", "content"):
            row[arm] = trained(context, preset, arm, features, options.seeds) - plain[arm]
            row[f"{arm} shuffled"] = trained(mixed, preset, arm, features, options.seeds) - plain[arm]
        results["causes"][cause] = row
        print(cause, {name: round(value, 4) for name, value in row.items()}, flush=True)
        write_json(RESULTS, {**results, "seeds": options.seeds, "rows": [len(train), len(context.test)]})


if __name__ == "__main__":
    main()
