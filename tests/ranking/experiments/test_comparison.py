"""Comparisons: every arm trains, killed ones go on, origins see nothing of their future, rows merge by data set."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from helpers.builders import copy_of, dies, reseal
from helpers.commands import ask_well
from helpers.comparison_builders import IMPRESSIONS, arm_file, compare, forked_workers, small_spec
from ranking.data.storage import load_dataset
from ranking.evaluation.metrics import auc
from ranking.experiments.comparison import trials
from ranking.experiments.comparison.arms import load_arms
from ranking.experiments.comparison.comparison import CompareOptions, Comparison
from ranking.experiments.comparison.evaluation import evaluate_external
from ranking.experiments.comparison.results import ComparisonResult
from ranking.experiments.comparison.tables import markdown, markdown_of_boosting, markdown_of_ideas, merge_rows
from ranking.experiments.comparison.trials import Plan, Trial
from ranking.training.blend import logits, probabilities
from ranking.training.predictions import FIRST_EPOCH, read_details, read_predictions
from sidkit.cli.compare_report import print_comparison
from sidkit.core.clock import iso
from sidkit.core.errors import EvaluationError
from sidkit.core.repo import Repo
from sidkit.core.stages import read_facts
from sidkit.datasets.synthetic import Sizes, write_world

FEW = ["id", "id_codes", "gbdt"]
WITHOUT_PARAMETERS = {"gbdt", "blend"}
Compared = tuple[Repo, dict[str, Any]]
SHAPE = [
    "data", "arm", "seeds", "slice", "metric", "mean", "low", "high", "baseline", "delta", "delta_low", "delta_high",
    "positives", "verdict", "reason", "effective_users",
]  # fmt: skip


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """All arms, one seed. Tests only read it."""
    return compare(tmp_path_factory.mktemp("every") / "repo", ["papers"])


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Three arms, two seeds, two origins. Tests only read it, or a copy."""
    return compare(tmp_path_factory.mktemp("few") / "repo", FEW, seeds=2, origins=2)


def predictions(repo: Repo) -> dict[str, np.ndarray]:
    folder = repo.runs / "comparison" / "units"
    paths = (path for path in sorted(folder.glob("*.parquet")) if "-without-" not in path.name)
    return {path.stem: read_predictions(path) for path in paths}


def test_every_arm_trains_and_is_in_the_table(every: Compared) -> None:
    repo, facts = every
    arms = list(load_arms(["papers"]))
    assert list(facts["arms"]) == arms
    assert set(predictions(repo)) == {f"{arm}-s0-o0" for arm in arms}
    rows = facts["slices"]["all"]["rows"]
    for name, scores in predictions(repo).items():
        assert ((scores > 0) & (scores < 1)).all()
        assert len(scores) == rows, name
    for arm, told in facts["arms"].items():
        assert told["seconds"] and told["auc_by_seed"]["all"]
        assert (told["parameters"] is None) == (arm in WITHOUT_PARAMETERS)
        if arm not in WITHOUT_PARAMETERS:
            assert 0 < told["table_parameters"] < told["parameters"]
    # The quantile bins of the statistics of codes are as many as these have distinct quantiles.
    assert [facts["arms"][f"id_codes_{kind}"]["parameters"] for kind in ("shuffled", "random")] == pytest.approx(
        [facts["arms"]["id_codes"]["parameters"]] * 2, rel=0.03
    )


def test_controls_share_the_frame_of_their_codes(every: Compared) -> None:
    folder = every[0].runs / "comparison"
    frames = {path.name for path in (folder / "frames").iterdir()}
    own = {name for name in frames if not name.endswith(("-shuffled", "-random"))}
    arms = load_arms(["papers"])
    controls = {f"{arm.codebook}-{arm.control}" for arm in arms.values() if arm.control}
    assert {f"{name.partition('_')[0]}-{name.rpartition('-')[2]}" for name in frames - own} == controls
    assert {name.rpartition("-")[0] for name in frames - own} <= own


def test_every_arm_is_brought_to_the_parameters_of_a3(every: Compared) -> None:
    arms = {arm: told["parameters"] for arm, told in every[1]["arms"].items() if told["parameters"]}
    assert {arm: count / arms["id_codes"] for arm, count in arms.items()} == pytest.approx(
        dict.fromkeys(arms, 1),
        abs=0.15,  # one step of the width of a small model
    )
    widths = {arm: every[1]["arms"][arm]["dim"] for arm in arms}
    assert widths["id_codes"] == small_spec().model.dim < widths["id"]
    # Bins of shuffled statistics differ, and with them the parameters of the first layer.
    assert abs(widths["id_codes_shuffled"] - widths["id_codes"]) <= 1


def test_each_codebook_has_the_training_rows_after_its_clicks(every: Compared) -> None:
    repo, facts = every
    windows = {window["codebook"]: window for window in facts["origins"][0]["codebooks"]}
    assert {name.rsplit("_", 1)[0] for name in windows} >= {"rqkmeans", "saviorrec", "smile"}
    for name, window in windows.items():
        stage = read_facts(repo.runs / "comparison" / "stages.json", f"frame:{frame_of(repo, name)}")
        rows = load_dataset(repo.runs / "comparison" / "frames" / frame_of(repo, name)).rows
        train = rows.at_us[: stage["ends"][0]]
        assert window["rows"] == stage["parts"]["train"]["available"] <= window["of"]
        if window["learned_before"] is None:
            assert window["rows"] == window["of"]
        else:
            assert iso(int(train.min())) >= window["learned_before"] == facts["origins"][0]["codebook_end"]
    assert any(window["learned_before"] for window in windows.values())
    console = Console(file=io.StringIO(), width=200)
    print_comparison(console, ComparisonResult.of_json(facts, Path("arms.json")))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("learned from clicks before") == sum(bool(each["learned_before"]) for each in windows.values())


def test_an_arm_trains_on_the_rows_of_arms_with_codes_of_clicks_if_it_asks_for_them(tmp_path: Path) -> None:
    names = ["id_codes", "id_codes_after", "id_codes_aspects"]
    repo, facts = compare(tmp_path / "repo", names)
    comparison = Comparison(repo, CompareOptions("synthetic", load_arms(names), small_spec(), 1, 1, 1, IMPRESSIONS))
    with repo.locked():
        plan, (origin,) = comparison.plan()
    frames = {trial.arm: plan.frames[trial.frame] for trial in plan.trials}
    train = {}
    for arm, frame in frames.items():
        rows = load_dataset(frame.folder).rows
        train[arm] = rows.at_us[rows.at_us < origin.split.train_end_us]
    assert frames["id_codes_after"].codebook == frames["id_codes"].codebook
    assert train["id_codes"].min() < origin.split.codebook_end_us <= train["id_codes_after"].min()
    np.testing.assert_array_equal(train["id_codes_after"], train["id_codes_aspects"])
    windows = [
        (each["learned_before"] is None, each["rows"] == each["of"]) for each in facts["origins"][0]["codebooks"]
    ]
    assert windows == [(True, True), (True, False), (False, False)]
    verdicts = {(row["arm"], row["baseline"]): row for row in facts["rows"] if row["baseline"]}
    apart = verdicts["id_codes_aspects", "id_codes"]
    assert apart["verdict"] == "unequal rows"
    assert apart["reason"] == (
        f"training rows: id_codes_aspects on those from {iso(origin.split.codebook_end_us)} on and id_codes on all; later rows "
        'alone can make a difference; add id_codes_after, or a baseline with training_rows = "after_clicks", to the arms'
    )
    assert verdicts["id_codes_aspects", "id_codes_after"]["verdict"] == "no evidence"  # as the reason advises
    assert verdicts["id_codes_after", "id_codes"]["verdict"] == "no evidence"  # its rows are what the baseline lacks
    console = Console(file=io.StringIO(), width=200)
    print_comparison(console, ComparisonResult.of_json(facts, Path("arms.json")))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count("no verdict on id_codes_aspects against id_codes: training rows: ") == 1


def test_another_baseline_is_compared_without_another_training(tmp_path: Path) -> None:
    found = {}
    for baseline in ("id_codes_random", "id_codes_shuffled"):
        own = arm_file(tmp_path, "own", f'representations = ["id", "sid"]\nbaseline = "{baseline}"\n')
        facts = compare(tmp_path / "repo", ["id_codes_random", "id_codes_shuffled", own])[1]
        found[baseline] = {row["baseline"] for row in facts["rows"] if row["arm"] == "own" and row["baseline"]}
        trained = {unit["arm"]: unit["seconds"] for unit in facts["units"]}
        assert found.setdefault("seconds", trained) == trained
    assert found["id_codes_random"] == {"id_codes_random"}
    assert found["id_codes_shuffled"] == {"id_codes_shuffled"}


def test_arms_of_every_kind_are_evaluated_together(tmp_path: Path) -> None:
    names = ["id", "id_codes", "id_content", "id_content_joint", "id_content_bias", "gbdt", "blend"]
    facts = compare(tmp_path / "repo", [*names, "content"])[1]
    assert {row["arm"] for row in facts["rows"] if row["metric"] == "auc"} >= set(names)
    assert {part["name"] for part in facts["liveness"]["id_content_joint"]} >= {"reranker.context"}
    assert {"id", "id_codes", "id_content"} <= set(facts["probes"]["mutation"])
    assert not {"id_content_joint", "id_content_bias", "gbdt", "blend"} & set(facts["probes"]["mutation"])


def frame_of(repo: Repo, codebook: str) -> str:
    """The key of the frame with a codebook."""
    stages_ = json.loads((repo.runs / "comparison" / "stages.json").read_text())["stages"]
    return next(
        name.partition(":")[2]
        for name, stage in stages_.items()
        if name.startswith("codebook:") and stage["facts"]["name"] == codebook
    )


def test_arms_may_keep_their_own_sizes(tmp_path: Path) -> None:
    facts = compare(tmp_path / "repo", ["id", "id_codes"], equal_budgets=False)[1]
    assert facts["arms"]["id"]["dim"] == facts["arms"]["id_codes"]["dim"]
    assert facts["arms"]["id"]["parameters"] < 0.95 * facts["arms"]["id_codes"]["parameters"]


def test_the_rows_have_the_stated_shape_and_the_stated_baselines(every: Compared) -> None:
    rows = every[1]["rows"]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    for row in rows:
        assert list(row) == SHAPE
        assert row["verdict"] in {None, "better", "worse", "no evidence", "unequal rows"}
        assert (row["baseline"] is None) == (row["delta"] is None) == (row["verdict"] is None)
        if row["low"] is not None:
            assert row["low"] <= row["high"]
        if row["positives"] < 500 and row["baseline"]:
            assert row["verdict"] in {"no evidence", "unequal rows"}
    pairs = {(row["arm"], row["baseline"]) for row in rows if row["metric"] == "auc" and row["slice"] == "all"}
    own = {(arm, spec.baseline) for arm, spec in load_arms(["papers"]).items() if spec.baseline}
    assert ("saviorrec", "id_content_codes_saviorrec") in own and ("smile", "id_codes_smile") in own
    arms = [arm for arm in every[1]["arms"] if arm not in {"id", "id_codes"}]
    assert pairs == {
        *((arm, base) for arm in arms for base in ("id", "id_codes", "id_content") if arm != base), ("id", "id_codes"),
        ("id", "id_content"), ("id_codes", "id"), ("id_codes", "id_content"), ("id_codes", "id_codes_shuffled"),
        ("id_codes", "id_codes_random"), ("oracle", None), ("fair ceiling", None),
        *own, *((arm, "gbdt") for arm in every[1]["arms"] if arm != "gbdt"),
    }  # fmt: skip
    keys = [(row["arm"], row["slice"], row["metric"], row["baseline"]) for row in rows]
    assert len(set(keys)) == len(keys)


def test_the_means_are_those_of_the_predictions(every: Compared) -> None:
    repo, facts = every
    frames = repo.runs / "comparison" / "frames"
    data = load_dataset(next(frames.glob("rqkmeans*-o0")))
    label = data.rows.label[-facts["slices"]["all"]["rows"] :]
    means = {row["arm"]: row["mean"] for row in facts["rows"] if row["slice"] == "all" and row["metric"] == "auc"}
    for arm in facts["arms"]:
        scores = predictions(repo)[f"{arm}-s0-o0"]
        assert means[arm] == pytest.approx(auc(label, scores), abs=1e-6)
        assert means[arm] < means["oracle"]
        if arm not in WITHOUT_PARAMETERS:
            first = read_predictions(repo.runs / "comparison" / "units" / f"{arm}-s0-o0.parquet", FIRST_EPOCH)
            # With one epoch the first is the best.
            np.testing.assert_array_equal(first, scores)
            assert facts["arms"][arm]["first_epoch_auc"]["all"] == pytest.approx(means[arm], abs=1e-6)


def test_losses_are_removed_in_trials_of_their_own(every: Compared) -> None:
    repo, facts = every
    extra = [unit for unit in facts["units"] if unit["without"]]
    both = {"transfer", "contrast"}
    expected = {
        **dict.fromkeys(("smile", "smile_content", "saviorrec_smile"), both),
        "smile_rq": {"transfer"},
        "smile_opq": {"contrast"},
    }
    trained = {(unit["arm"], unit["without"]) for unit in extra}
    assert trained == {(arm, f"rq_opq_gate.{loss}") for arm, losses in expected.items() for loss in losses}
    for unit in extra:
        name = f"{unit['arm']}-without-{unit['without']}-s0-o0"
        validation = read_details(repo.runs / "comparison" / "units" / f"{name}.parquet")["validation"]
        whole = read_details(repo.runs / "comparison" / "units" / f"{unit['arm']}-s0-o0.parquet")["validation"]
        (part,) = [part for part in facts["liveness"][unit["arm"]] if part["name"] == unit["without"]]
        assert (part["auc"], part["auc_off"]) == (whole, [validation])
        assert part["own"] and part["alive"] is None, "one seed"
    assert not any("without" in arm for arm in [*facts["arms"], *facts["liveness"]])


def test_codebooks_and_frames_are_made_once(every: Compared) -> None:
    names = [stage["name"] for stage in every[1]["stages"]]
    for kind in ("codebook", "publish", "frame"):
        made = [name.split(":")[1] for name in names if name.startswith(f"{kind}:")]
        assert sorted(name.split("_")[0] for name in made) == ["rqkmeans", "saviorrec", "smile"]


def test_origins_have_their_own_codebooks_trials_and_lines(few: Compared) -> None:
    repo, facts = few
    books = {unit["frame"]: unit["origin"] for unit in facts["units"]}
    assert sorted(books.values()) == [0, 1]
    assert set(predictions(repo)) == {f"{arm}-s{seed}-o{number}" for arm in FEW for seed in (0, 1) for number in (0, 1)}
    slices = {row["slice"] for row in facts["rows"] if "@" in row["slice"]}
    assert {"all @ origin 0", "all @ origin 1"} <= slices
    told = {
        row["slice"]: row
        for row in facts["rows"]
        if row["arm"] == "gbdt" and row["baseline"] == "id_codes" and row["metric"] == "auc"
    }
    each = [told[f"all @ origin {number}"] for number in (0, 1)]
    # Without a name of an origin, a slice is the mean over all of them, on the rows of all of them.
    assert told["all"]["delta"] == pytest.approx((each[0]["delta"] + each[1]["delta"]) / 2, abs=2e-6)
    assert (
        told["all"]["positives"] == each[0]["positives"] + each[1]["positives"] == facts["slices"]["all"]["positives"]
    )
    assert told["all"]["delta_high"] - told["all"]["delta_low"] < max(
        row["delta_high"] - row["delta_low"] for row in each
    )
    assert facts["slices"]["all"]["users"] < sum(row["effective_users"] for row in each) * 2
    for origin in facts["origins"]:
        assert origin["rows"]["train"]["used"] < origin["rows"]["train"]["available"], "the caps of small_spec"
        assert origin["rows"]["test"]["used"] == origin["rows"]["test"]["available"] > 0


def test_an_external_models_scores_are_evaluated_on_the_same_rows(few: Compared) -> None:
    repo, facts = few
    options = CompareOptions("synthetic", load_arms(FEW), small_spec(), seeds=2, origins=2, impressions=IMPRESSIONS)
    plan = Comparison(repo, options).plan()[0]
    scores = [predictions(repo)[f"id-s{seed}-o0"] for seed in range(2)]
    told = [row.as_json() for row in evaluate_external("synthetic_strong", plan, "external", scores)]
    assert {row["arm"] for row in told} == {"external"} and {row["baseline"] for row in told} >= {"id", "id_codes"}
    ours = {
        (row["slice"], row["metric"], row["baseline"]): row
        for row in facts["rows"] if row["arm"] == "id" and "@ origin 0" in row["slice"]
    }  # fmt: skip
    for row in told:
        if row["baseline"] == "id":
            assert row["delta"] == 0 and row["verdict"] == "no evidence"
        elif row["metric"] == "auc" and row["slice"] in ("all", "cold"):
            at_origin = ours[f"{row['slice']} @ origin 0", "auc", row["baseline"]]
            assert row == {**at_origin, "arm": "external", "slice": row["slice"]}
    with pytest.raises(EvaluationError, match="got 5, 5 scores per seed for external"):
        evaluate_external("synthetic_strong", plan, "external", [np.zeros(5)] * 2)
    broken = [scores[0], np.where(np.arange(len(scores[1])) < 3, np.nan, scores[1])]
    with pytest.raises(EvaluationError, match=r"got 0, 3 per seed that are NaN or infinite for external"):
        evaluate_external("synthetic_strong", plan, "external", broken)
    with pytest.raises(EvaluationError, match=r"id-s0-o0.*are missing; run the comparison"):
        evaluate_external(
            "synthetic_strong", dataclasses.replace(plan, folder=repo.path / "elsewhere"), "external", scores
        )


def test_a_second_run_keeps_everything(few: Compared) -> None:
    repo, facts = few
    files = [path for path in (repo.runs / "comparison").rglob("*") if path.is_file() and not path.name.startswith(".")]
    before = {path: path.stat().st_mtime_ns for path in files}
    again = compare(repo.path, FEW, seeds=2, origins=2)[1]
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert again["rows"] == facts["rows"]
    assert again["units"] == facts["units"]
    assert again["liveness"] == facts["liveness"] and set(facts["liveness"]) == {"id", "id_codes"}


def dying(path: Path, after: int) -> None:
    """Compare until so many trials are done, and die in the next, when it is trained and nothing is recorded."""
    original, count = trials.write_predictions, [0]

    def write(*arguments: Any) -> None:
        if count[0] == after:
            os.kill(os.getpid(), signal.SIGKILL)
        count[0] += 1
        original(*arguments)

    trials.write_predictions = write
    compare(path, FEW, seeds=2, origins=2)


def test_killed_between_trials_and_gone_on_with_by_two_processes_it_ends_as_an_undisturbed_run(
    few: Compared, tmp_path: Path
) -> None:
    repo = copy_of(few[0], tmp_path / "repo")
    folder = repo.runs / "comparison"
    for path in [*(folder / "units").glob("id*"), folder / "verdict.json"]:
        path.unlink()

    def done() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (folder / "units").glob("*.parquet")}

    before, after = done(), 2
    dies(dying, repo.path, after)
    assert len(done()) == len(before) + after
    assert before.items() <= done().items(), "a finished trial was done again"
    before = done()
    with forked_workers():
        facts = compare(repo.path, FEW, seeds=2, origins=2, jobs=2)[1]
    assert before.items() <= done().items()
    assert facts["rows"] == few[1]["rows"]
    for name, scores in predictions(few[0]).items():
        np.testing.assert_array_equal(predictions(repo)[name], scores)


def test_a_comparison_goes_on_when_the_shell_that_started_it_has_ended(
    few: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = copy_of(few[0], tmp_path / "repo")
    for path in (repo.runs / "comparison" / "units").glob("id-*"):
        path.unlink()
    parents = iter(range(1, 1000))
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    assert compare(repo.path, FEW, seeds=2, origins=2)[1]["rows"] == few[1]["rows"]


def test_a_worker_whose_parent_has_died_begins_no_further_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    alive = iter([True, True, False])
    parent = SimpleNamespace(is_alive=lambda: next(alive))
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    monkeypatch.setattr(trials, "_claimed", lambda *_, wait: contextlib.nullcontext(True))
    monkeypatch.setattr(trials, "_run", lambda plan, trial, *_: begun.append(trial.name))
    arms = load_arms(["id"])
    listed = [SimpleNamespace(name=f"id-s{seed}", arm="id", origin=0, frame="one") for seed in range(5)]
    trials.work_through(SimpleNamespace(arms=arms, all_trials=listed))  # type: ignore[arg-type]
    assert begun == ["id-s0", "id-s1"]


def test_a_worker_that_stops_is_told_and_what_is_finished_is_kept(few: Compared, tmp_path: Path) -> None:
    repo = copy_of(few[0], tmp_path / "repo")
    folder = repo.runs / "comparison"
    (folder / "units" / "id-s0-o0.parquet").unlink()
    arrays = next((folder / "frames").glob("*-o0")) / "arrays.safetensors"
    arrays.write_bytes(b"broken")
    reseal(arrays)  # else the damage is found, and the frame made again
    with pytest.raises(EvaluationError, match=r"1 trials did not finish \(id-s0-o0\).*run the same command again"):
        compare(repo.path, FEW, seeds=2, origins=2, jobs=2)


def test_another_seed_or_arm_does_only_what_is_new(few: Compared, tmp_path: Path) -> None:
    repo = copy_of(few[0], tmp_path / "repo")
    before = {path.name: path.stat().st_mtime_ns for path in (repo.runs / "comparison" / "units").glob("*.parquet")}
    facts = compare(repo.path, ["id", "id_content", "id_codes", "gbdt"], seeds=3, origins=2)[1]
    after = {path.name: path.stat().st_mtime_ns for path in (repo.runs / "comparison" / "units").glob("*.parquet")}
    assert before.items() <= after.items()
    assert len(after) == 4 * 3 * 2
    assert {
        row["seeds"]
        for row in facts["rows"]
        if row["arm"] not in {"oracle", "fair ceiling"} and "@" not in row["slice"]
    } == {3}


def source_with_another_future(folder: Path, origin: Path, from_us: int) -> str:
    """The same log with the same moments, but what is clicked, and which item, is another story from a moment on."""
    folder.mkdir()
    log = pq.read_table(origin / "interactions.parquet")
    at_us = log.column("timestamp").cast(pa.int64()).to_numpy()
    later = np.flatnonzero(at_us >= from_us)
    rng = np.random.default_rng(0)
    label = log.column("label").to_numpy().copy()
    label[later] = rng.integers(0, 2, len(later))
    items = np.array(log.column("item_id").to_pylist(), dtype=object)
    items[later] = items[later][rng.permutation(len(later))]
    columns = {name: log.column(name) for name in log.column_names if name != "converted"}
    changed = pa.table({**columns, "label": pa.array(label), "item_id": pa.array(items)})
    pq.write_table(changed, folder / "interactions.parquet")
    for name in ("items", "item_embeddings"):
        pq.write_table(pq.read_table(origin / f"{name}.parquet"), folder / f"{name}.parquet")
    return str(folder)


def test_a_blend_uses_its_members_predictions_wherever_it_is_listed(few: Compared, tmp_path: Path) -> None:
    repo = copy_of(few[0], tmp_path / "repo")
    mine = arm_file(tmp_path, "mine", 'kind = "blend"\nof = ["id", "gbdt"]\n')
    facts = compare(repo.path, [mine, *FEW], seeds=2, origins=2)[1]
    assert list(facts["arms"]) == ["mine", *FEW]
    assert few[1]["units"] == [unit for unit in facts["units"] if unit["arm"] != "mine"], (
        "members are not trained again"
    )
    made = predictions(repo)
    assert {name for name in made if name.startswith("mine")} == {
        f"mine-s{seed}-o{origin}" for seed in (0, 1) for origin in (0, 1)
    }
    for name in ("s0-o0", "s1-o0", "s0-o1", "s1-o1"):
        weights = read_details(repo.runs / "comparison" / "units" / f"mine-{name}.parquet")["weights"]
        blended = sum(weights[arm] * logits(made[f"{arm}-{name}"]) for arm in ("id", "gbdt"))
        assert made[f"mine-{name}"] == pytest.approx(probabilities(blended))
    mine = arm_file(tmp_path, "mine", 'kind = "blend"\nof = ["gbdt", "id"]\n')
    compare(repo.path, [*FEW, mine], seeds=2, origins=2)
    for name, scores in predictions(repo).items():
        assert np.array_equal(scores, made[name]), name


def test_an_earlier_origin_never_sees_what_comes_after_its_end(tmp_path: Path) -> None:
    # Codes that are learned from clicks, a ranker that learns neighbours of codes, and trees.
    write_world(tmp_path / "world", "strong", Sizes(IMPRESSIONS), seed=1)
    short = "{dim = 16, hidden = 16, steps = 50, batch = 256}"
    smile = f'codebook = "smile"\ncodebook_changes = {{encoder_arguments = {short}}}\n'
    arms = [
        arm_file(tmp_path, "gated", f'{smile}representations = ["rq_opq_gate"]\n'),
        arm_file(tmp_path, "trees", f'{smile}kind = "gbdt"\n'),
    ]
    calm = source_with_another_future(tmp_path / "calm", tmp_path / "world", 2**62)
    repo, facts = compare(tmp_path / "first", arms, calm, origins=2)
    frame = next(path for path in (repo.runs / "comparison" / "frames").iterdir() if path.name.endswith("-o0"))
    ends = read_facts(repo.runs / "comparison" / "stages.json", f"frame:{frame.name}")["ends"]
    first_test_row = int(load_dataset(frame).rows.at_us[ends[1]])
    # The earlier origin ends where the latest one's test rows begin.
    stormy = source_with_another_future(tmp_path / "stormy", Path(calm), first_test_row)
    other, _ = compare(tmp_path / "second", arms, stormy, origins=2)
    changed = 0
    for name, scores in predictions(repo).items():
        again = predictions(other)[name]
        if name.endswith("-o1"):
            np.testing.assert_array_equal(again, scores, err_msg=name)
        else:
            changed += int(not np.array_equal(again, scores))
    assert changed == len(arms)
    assert len(facts["origins"]) == 2


def line(data: str, arm: str, **changes: Any) -> dict[str, Any]:
    told = dict.fromkeys(SHAPE) | {
        "data": data,
        "arm": arm,
        "slice": "all",
        "metric": "auc",
        "mean": 0.7,
        "positives": 900,
    }
    return told | changes


def test_rows_of_a_data_set_that_is_run_again_are_replaced_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "results" / "arms.json"
    merge_rows(path, [line("first", "id"), line("first", "id_codes")])
    merge_rows(path, [line("second", "id")])
    merge_rows(path, [line("first", "id", mean=0.8)])
    told = json.loads(path.read_text())
    assert [(row["data"], row["arm"], row["mean"]) for row in told] == [("second", "id", 0.7), ("first", "id", 0.8)]
    assert [list(row) for row in told] == [SHAPE] * 2


def test_markdown_marks_what_is_better_and_names_what_it_is_better_than() -> None:
    rows = [
        line("world", "id_codes", baseline="id", delta=0.1, delta_low=0.05, delta_high=0.2, verdict="better"),
        line("world", "saviorrec", baseline="id_codes", delta=0.02, delta_low=0.01, delta_high=0.03, verdict="better"),
        line("world", "saviorrec", baseline="id", delta=0.5, delta_low=0.4, delta_high=0.6, verdict="better"),
        line(
            "world", "smile", baseline="id_codes", delta=0.02, delta_low=-0.01, delta_high=0.03, verdict="no evidence"
        ),
    ]
    assert markdown(rows).splitlines() == [
        "**world**", "", "| arm | paper | all (900) |", "| --- | --- | --- |", "| id_codes | A3 | .7000 |",
        "| saviorrec | A9 | .7000 **+0.0200 [+0.0100, +0.0300]** |", "| smile | A12 | .7000 +0.0200 [-0.0100, +0.0300] |",
    ]  # fmt: skip


def test_rows_of_earlier_versions_are_shown_by_todays_names() -> None:
    rows = [line("world", "A9", baseline="A3", delta=0.02, delta_low=0.01, delta_high=0.03, verdict="better")]
    today = [{**rows[0], "arm": "saviorrec", "baseline": "id_codes"}]
    assert markdown(rows) == markdown(today)
    old = [{**rows[0], "baseline": "A3_saviorrec_content"}]
    assert "| world | saviorrec | id_content_codes_saviorrec |" in markdown_of_ideas(old, ("all",))


def test_what_an_idea_gives_is_told_apart_from_what_its_inputs_give() -> None:
    rows = [
        line("world", "saviorrec", baseline="id_codes", delta=0.02, delta_low=0.01, delta_high=0.03, verdict="better"),
        line(
            "world", "saviorrec", baseline="A3_content", delta=-0.02, delta_low=-0.03, delta_high=-0.01, verdict="worse"
        ),
        line(
            "other",
            "saviorrec",
            baseline="A3_content",
            delta=0.01,
            delta_low=-0.03,
            delta_high=0.02,
            verdict="no evidence",
        ),
    ]
    assert markdown_of_ideas(rows, ("all", "cold")).splitlines() == [
        "| data | arm | ablation baseline | all | cold |", "| --- | --- | --- | --- | --- |",
        "| world | saviorrec | A3_content | **-0.0200 [-0.0300, -0.0100]** | - |",
        "| other | saviorrec | A3_content | +0.0100 [-0.0300, +0.0200] | - |",
    ]  # fmt: skip
    control = {**rows[0], "arm": "hisam", "baseline": "hisam_shuffled"}
    assert markdown_of_ideas([*rows, control]) == markdown_of_ideas(rows)
    assert markdown_of_ideas(rows[:1]) == ""


def test_differences_to_boosting_stand_in_a_table_of_their_own() -> None:
    rows = [
        line("world", "saviorrec", baseline="id_codes", delta=0.02, delta_low=0.01, delta_high=0.03, verdict="better"),
        line("world", "saviorrec", baseline="gbdt", delta=-0.02, delta_low=-0.03, delta_high=-0.01, verdict="worse"),
    ]
    assert markdown_of_boosting(rows, ("all",)).splitlines() == [
        "| data | arm | baseline | all |", "| --- | --- | --- | --- |",
        "| world | saviorrec | gbdt | **-0.0200 [-0.0300, -0.0100]** |",
    ]  # fmt: skip
    assert markdown_of_ideas(rows) == ""


def test_people_are_told_budgets_differences_and_times(few: Compared) -> None:
    console = Console(record=True, width=220, file=io.StringIO())
    print_comparison(console, ComparisonResult.of_json(few[1], Path("facts.json")))
    told = console.export_text()
    assert "id + codes as plain features" in told
    assert f"{few[1]['arms']['id']['parameters']:,}" in told
    assert "of id_codes" in told and "s of CPU" in told
    (row,) = [
        row for row in few[1]["rows"]
        if (row["arm"], row["slice"], row["metric"], row["baseline"]) == ("gbdt", "all", "auc", "id_codes")
    ]  # fmt: skip
    assert f"{row['mean']:.4f}" in told and f"{row['delta']:+.4f}" in told


def test_the_ideas_of_arms_are_compared_with_their_inputs_and_with_their_controls(every: Compared) -> None:
    out = io.StringIO()
    print_comparison(Console(width=160, file=out), ComparisonResult.of_json(every[1], Path("facts.json")))
    table = out.getvalue().split("without the idea, and of controls")[1].split("liveness")[0]
    by = {(row["arm"], row["slice"], row["baseline"]): row for row in every[1]["rows"] if row["metric"] == "auc"}
    for arm, baseline in (
        ("saviorrec", "id_content_codes_saviorrec"), ("smile", "id_codes_smile"),
        ("id_codes", "id_codes_shuffled"), ("id_codes", "id_codes_random"),
    ):  # fmt: skip
        (line,) = [each for each in table.splitlines() if each.split()[:3] == [arm, "all", baseline]]
        row = by[arm, "all", baseline]
        assert f"{row['delta']:+.4f}" in line and row["verdict"] in line
    assert not any(line.split()[:1] == ["id_content"] for line in table.splitlines()), "it tests no idea"


def test_at_80_columns_every_line_fits_and_every_name_is_whole(every: Compared) -> None:
    out = io.StringIO()
    print_comparison(Console(width=80, file=out), ComparisonResult.of_json(every[1], Path("facts.json")))
    tables = out.getvalue().split("time origin 0")[0].splitlines()
    for arm in every[1]["arms"]:
        assert any(line.split()[:1] in ([arm], [f"{arm}:"]) for line in tables), arm
    titles = [line for line in tables if "with the 95 %" in line or line.startswith(("positives:", "no verdict on"))]
    assert max(len(line) for line in tables if line not in titles) <= 80


def test_the_command_writes_rows_and_a_page_and_json_is_all_on_stdout(few: Compared, tmp_path: Path) -> None:
    repo = copy_of(few[0], tmp_path / "repo")
    done = ask_well(
        "ranker", "compare", "--data", "synthetic", "--repo", repo.path, "--arms", "id", "--seeds", 1, "--impressions",
        IMPRESSIONS, "--max-train-rows", 2000, "--results", tmp_path / "arms.json", "--html", tmp_path / "page.html", "--json",
    )  # fmt: skip
    facts = json.loads(done.out)
    assert {row["data"] for row in facts["rows"]} == {"synthetic_strong"}
    assert json.loads((tmp_path / "arms.json").read_text()) == facts["rows"]
    # Other rows, so the trial of the fixture does not stand for it.
    assert re.search(r"^done +id-s0-o0 ", done.err, flags=re.MULTILINE)
    assert (tmp_path / "page.html").stat().st_size > 20_000


def test_a_trial_is_claimed_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    plan = Plan(tmp_path, tmp_path, None, {}, {}, ())  # type: ignore[arg-type]
    trial = Trial("id", 0, 0, "frame", "mark")
    with trials._claimed(plan, trial, wait=False) as mine, trials._claimed(plan, trial, wait=False) as again:
        assert mine
        assert not again
    with trials._claimed(plan, trial, wait=False) as mine:
        assert mine
