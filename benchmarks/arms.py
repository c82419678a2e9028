"""Compare all arms on six data sets: the results behind the claims about rankers.

    python benchmarks/arms.py [--data DATA...] [--work FOLDER] [--jobs 2] [--seeds 3] [--origins 3]

Runs ``sidkit ranker compare`` for each data set; an interrupted run resumes. Rows are written to
``benchmarks/results/arms.json`` (replacing those of the same data set), tables as Markdown to ``benchmarks/results/arms.md``,
and one page over all data sets of the work folder to its ``arms.html``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

from rich.console import Console

from ranking.experiments.comparison.arms import ComparedArm, load_arms
from ranking.experiments.comparison.comparison import CompareOptions, Comparison, data_name
from ranking.experiments.comparison.report import write_page
from ranking.experiments.comparison.tables import (
    SHORT,
    budgets,
    markdown,
    markdown_of_boosting,
    markdown_of_ideas,
    merge_rows,
)
from ranking.pipeline.prepare import prepare_repo
from ranking.pipeline.presets import load_preset
from ranking.training.arm_spec import RankerSpec
from ranking.training.boosting_spec import BoostingSpec
from sidkit.api.progress import LineProgress
from sidkit.core.files import read_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "arms.json"
PEERS = RESULTS.with_name("fuxictr.json")
TUNED = RESULTS.with_name("tune_ranker.json")
BOOSTED = RESULTS.with_name("tune_boosting.json")
WORLDS = ("synthetic:strong", "synthetic:weak", "synthetic:none")
REAL = ("ml_latest_small", "xwines_slim", "uci_online_retail")

BASE: dict[str, Any] = {
    "model.dropout": 0.4,
    "model.id_dropout": 0.1,
    "training.epochs": 8,
    "training.learning_rate": 5e-4,
    "training.table_learning_rate": 5e-4,
    "training.table_weight_decay": 1.0,
}
"""Where every search begins, whatever the presets say since; epochs are not searched."""


def defaults() -> list[str]:
    """The three synthetic worlds, and the real data sets that are available."""
    folder = Path(os.environ.get("SIDKIT_DATA", ROOT.parent / "shared" / "data"))
    for name in REAL:
        if not (folder / name).is_dir():
            print(f"SKIPPED {name}: {folder / name} is not there; set SIDKIT_DATA")
    return [*WORLDS, *(str(folder / name) for name in REAL if (folder / name).is_dir())]


def options_of(data: str, options: argparse.Namespace, arms: Sequence[str], *, tuned: bool = True) -> CompareOptions:
    """Options of the comparison on a data set: the settings chosen by ``benchmarks/tune_ranker.py`` and
    ``benchmarks/tune_boosting.py``, or :data:`BASE` and the defaults.
    """
    spec = load_preset("rqkmeans").ranker
    given = {
        **BASE,
        "training.max_train_rows": options.max_train_rows,
        "training.max_evaluation_rows": options.max_evaluation_rows,
    }
    spec = with_settings(spec, {**given, **(settings_of(data_name(data)) if tuned else {})})
    selected = with_boosting(load_arms(arms), data_name(data)) if tuned else load_arms(arms)
    return CompareOptions(
        data, selected, spec, options.seeds, options.origins, options.jobs,
        options.impressions,
    )  # fmt: skip


def with_boosting(arms: Mapping[str, ComparedArm], name: str) -> dict[str, ComparedArm]:
    """The arms with the boosting settings chosen by ``benchmarks/tune_boosting.py``; the defaults for other data sets."""
    told = read_json(BOOSTED)["chosen"] if BOOSTED.exists() else {}
    chosen = {key: value for key, value in told.get(tuned_as(name), {}).items() if key in BoostingSpec.model_fields}
    boosting = BoostingSpec.model_validate(chosen)
    return {
        arm: spec.model_copy(update={"boosting": boosting}) if spec.kind == "gbdt" else spec
        for arm, spec in arms.items()
    }


def with_settings(spec: RankerSpec, settings: Mapping[str, Any]) -> RankerSpec:
    """A spec with some ``section.key`` values replaced."""
    changed: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, name = key.split(".")
        changed.setdefault(section, {})[name] = value
    return spec.model_copy(
        update={section: getattr(spec, section).model_copy(update=values) for section, values in changed.items()}
    )


def tuned_as(name: str) -> str:
    """The data set whose validation rows choose the settings of another: all worlds use those of ``strong``."""
    return data_name(WORLDS[0]) if name in {data_name(world) for world in WORLDS} else name


def settings_of(name: str) -> dict[str, Any]:
    """The settings chosen on validation rows, as ``section.key``."""
    told = read_json(TUNED) if TUNED.exists() else {}
    return dict(told.get(tuned_as(name), {}).get("chosen", {}))


def compared(data: str, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    asked = options_of(data, options, options.arms.split(","))
    repo = prepare_repo(data, work)
    with repo.locked():
        return Comparison(repo, asked, LineProgress(Console())).run().as_json()


def fragment(rows: list[dict[str, Any]], held: dict[str, dict[str, Any]]) -> str:
    """Markdown for docs/results: time and memory, budgets, and the table of every data set."""
    lines = [
        "AUC; after it the difference to id_codes with its 95 % interval over users, bold where there is evidence.",
        "",
    ]
    peers = read_json(PEERS)["auc"] if PEERS.exists() else []
    known = list(dict.fromkeys(row["data"] for row in rows))
    rows = [row for name in known for row in [*rows, *peers] if row["data"] == name]
    lines += [markdown(rows, SHORT)]
    lines += ["Differences to the same inputs without the arm's idea:", "", markdown_of_ideas(rows, SHORT)]
    lines += ["Differences to boosting:", "", markdown_of_boosting(rows, SHORT)]
    for name, facts in held.items():
        seconds, units = facts["seconds"], facts["units"]
        lines.append(
            f"{name}: {len(units)} trials of {seconds['units_cpu'] / len(units):.1f} s of CPU, prepare "
            f"{seconds['prepare']:.0f} s, evaluate {seconds['judge']:.0f} s; {facts['train_rows']:,} training and "
            f"{facts['slices']['all']['rows']:,} test rows; GAUC by {facts['gauc_by']}; theta 80 % is "
            f"{facts['cuts']['theta_80']:,}."
        )
        if chosen := settings_of(name):
            lines.append(f"Settings: {', '.join(f'{key} {value}' for key, value in chosen.items())}.")
        shown = ", ".join(f"{arm} {whole:,} ({ratio:.2f})" for arm, whole, _, ratio in budgets(facts["arms"]) if ratio)
        lines += [f"Parameters (of id_codes): {shown}.", ""]
    return "\n".join(lines)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The options that determine the prepared data."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=defaults())
    parser.add_argument("--work", type=Path, default=Path(".work") / "arms")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--origins", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--max-train-rows", type=int, default=150_000)
    parser.add_argument("--max-evaluation-rows", type=int, default=120_000)
    parser.add_argument("--impressions", type=int, default=1_000_000, help="of a synthetic world")
    return parser


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--arms", default="papers")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    began = time.monotonic()
    for data in options.data:
        name = data_name(data)
        print(f"{name}", flush=True)
        started = time.monotonic()
        facts = compared(data, options.work / name, options)
        (options.work / f"{name}.json").write_text(json.dumps(facts))
        merge_rows(options.results, facts["rows"])
        print(f"  {name} took {(time.monotonic() - started) / 60:.1f} min", flush=True)
    held = {path.stem: read_json(path) for path in sorted(options.work.glob("*.json"))}
    write_page(list(held.values()), options.work / "arms.html")
    rows = json.loads(options.results.read_text())
    options.results.with_suffix(".md").write_text(fragment(rows, held))
    print(f"all took {(time.monotonic() - began) / 60:.1f} min; {options.results}, {options.work / 'arms.html'}")


if __name__ == "__main__":
    main()
