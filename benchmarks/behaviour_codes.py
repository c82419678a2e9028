"""Codes that learned from clicks against shuffled codes: do the codes of `saviorrec` and `smile` carry anything?

    python benchmarks/behaviour_codes.py --data DATA... [--work .work/behaviour_codes]

The codebook learns from the first 30 % of the log; rankers train on the following 30 % (at most 20,000 rows, by user), choose
their epoch on the next 10 %, and are compared on the last 30 % (at most 30,000 rows). Both arms are the neural arm `id_codes`
of the preset, with statistics of codes; one of them has shuffled codes. Two seeds, one time origin. Results go to
``benchmarks/results/behaviour_codes.json``.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

from ranking.experiments.comparison.comparison import data_name
from ranking.pipeline.prepare import prepare_repo
from ranking.pipeline.run import run_preset
from sidkit.core.files import read_json, write_json
from sidkit.core.repo import SETTINGS_FILE
from sidkit.presets import preset_path

RESULTS = Path(__file__).parent / "results" / "behaviour_codes.json"
PRESETS = ("saviorrec", "smile")
SEEDS = 2
IMPRESSIONS = 100_000
CAPS = "max_train_rows = 20000\nmax_evaluation_rows = 30000"
ARMS = """
[arms.id_codes]
representations = ["id", "prefix_ngram"]

[arms.shuffled_codes]
representations = ["id", "prefix_ngram"]
shuffle_codes = true

[arms.content]
representations = ["content"]
features = ["!*code_*"]
"""
KEYS = ("slice", "value", "low", "high", "positives", "verdict", "reason")


def preset_file(name: str, work: Path) -> Path:
    """The preset with these arms, at most so many rows, and half as many epochs."""
    text = preset_path(name).read_text(encoding="utf-8").partition("[arms.")[0]
    text = re.sub(r"serve = \[[^]]*\]", 'serve = ["id_codes"]', text).replace("epochs = 24", "epochs = 12")
    path = work / f"{name}_codes.toml"
    path.write_text(text.replace("[ranker.training]", f"[ranker.training]\n{CAPS}") + ARMS, encoding="utf-8")
    return path


def measure(data: str, name: str, work: Path) -> list[dict[str, float | str]]:
    """The differences of codes and shuffled codes, per slice."""
    repo = prepare_repo(data, work / f"{name}_{data_name(data)}")
    settings = repo.path / SETTINGS_FILE
    settings.write_text(
        settings.read_text(encoding="utf-8").replace("\ntrain = 0.8 ", "\ncodebook = 0.3\ntrain = 0.6 "), "utf-8"
    )
    preset = preset_file(name, work)
    run_preset(repo.path, data, str(preset), seeds=SEEDS, impressions=IMPRESSIONS)
    verdict = read_json(repo.runs / preset.stem / "verdict.json")
    return [
        {key: each[key] for key in KEYS}
        for each in verdict["differences"]
        if (each["arm"], each["baseline"]) == ("id_codes", "shuffled_codes")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="Folders of data sets, or synthetic:WORLD.")
    parser.add_argument("--work", type=Path, default=Path(".work/behaviour_codes"), help="Where repositories are made.")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    results = read_json(RESULTS) if RESULTS.exists() else {}
    for data in given.data:
        for name in PRESETS:
            results.setdefault(data_name(data), {})[name] = measure(data, name, given.work)
            write_json(RESULTS, results)


if __name__ == "__main__":
    main()
