"""From two CSV files as a shop exports them, without vectors and creation times, to online scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sidkit
from helpers.places import PRESETS
from sidkit.core.errors import FitError, SidkitWarning

TOML = """
[source.columns]
user_id = "uid"
item_id = "sku"
timestamp = "ts"
"""
LABELS = {
    "impressions": '[source.label]\npositive = "stars >= 4"\n',
    "positives_only": '[source.label]\npositive = "true"\n',
}


def export(folder: Path, toml: str) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    skus = np.array([f"{number:03d}" for number in range(40)])
    pd.DataFrame({"sku": skus, "title": "a title"}).to_csv(folder / "items.csv", index=False)
    times = 1_704_067_200_000 + np.sort(rng.integers(0, 20 * 86_400_000, 1500))
    log = {"uid": rng.integers(0, 30, 1500), "sku": skus[rng.integers(0, 35, 1500)], "ts": times}
    pd.DataFrame({**log, "stars": rng.integers(1, 6, 1500)}).to_csv(folder / "interactions.csv", index=False)
    (folder / "sidkit.toml").write_text(toml)
    return folder


@pytest.mark.filterwarnings("ignore:Scores rank rows")
@pytest.mark.parametrize("feedback", LABELS)
def test_a_csv_export_without_vectors_reaches_a_score(feedback: str, tmp_path: Path) -> None:
    data = export(tmp_path / "data", TOML + LABELS[feedback])
    with pytest.warns(SidkitWarning) as warned:
        project = sidkit.init(tmp_path / "repo", data)
    assert "sidkit data embed" in str(warned[0].message)
    source = project.settings.source
    assert (source.feedback, source.modalities, source.missing_created_at) == (feedback, (), "first_interaction")
    result = project.run(preset=str(PRESETS / "id_only.toml"))
    assert list(result.evaluation.arms) == ["id"]
    assert "skipping the arms that read content or codes: content, id_codes" in result.warnings[0]
    assert "sidkit data embed" in " ".join(result.conclusions)
    scores = project.scorer().score("7", ["001", "039"])  # 039 had no interaction
    assert scores["known"].all()
    assert scores["score"].between(0, 1).all()
    with pytest.raises(FitError, match="expected vectors to fit codes on.*sidkit data embed"):
        project.fit("cb_v1")
