"""LightGBM's side of ``tune_boosting.py``: runs in an environment with LightGBM and without sidkit.

    python lightgbm_worker.py FOLDER SETTINGS

Reads ``train.npy``, ``label.npy`` and ``validation.npy`` of the folder, and writes ``scores.npy``: float32 [stages, rows], the
log-odds of the validation rows after every ten trees. Prints the seconds of the fit.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import lightgbm
import numpy as np

STEP = 10


def main() -> None:
    folder, told = Path(sys.argv[1]), json.loads(sys.argv[2])
    parameters = {
        "objective": "binary", "learning_rate": told["learning_rate"], "num_leaves": told["leaves"],
        "min_data_in_leaf": told["leaf_rows"], "lambda_l2": told["l2"], "feature_fraction_bynode": told["feature_share"],
        "bagging_fraction": told["row_share"], "bagging_freq": int(told["row_share"] < 1), "seed": told["seed"],
        "num_threads": 1, "deterministic": True, "verbose": -1,
    }  # fmt: skip
    began = time.process_time()
    data = lightgbm.Dataset(np.load(folder / "train.npy"), np.load(folder / "label.npy"))
    model = lightgbm.train(parameters, data, num_boost_round=told["trees"])
    seconds = time.process_time() - began
    rows = np.load(folder / "validation.npy")
    steps = [
        np.asarray(model.predict(rows, raw_score=True, start_iteration=start, num_iteration=STEP))
        for start in range(0, told["trees"], STEP)
    ]
    np.save(folder / "scores.npy", np.cumsum(steps, axis=0).astype(np.float32))
    print(json.dumps({"seconds": seconds, "version": lightgbm.__version__}))


if __name__ == "__main__":
    main()
