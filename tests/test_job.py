"""The main job: its JSON, its resumption, its refusals."""

from __future__ import annotations

from builders import FinishedJob


def test_the_json_object_has_the_stated_shape(finished: FinishedJob) -> None:
    told = finished.told
    assert set(told) == {"data", "preset", "codebook", "arms", "stages", "peak_rss_mb", "artifacts"}
    assert set(told["codebook"]) == {
        "name", "quantizer", "levels", "utilisation", "perplexity", "collision_rate", "hit_rate_30",
    }  # fmt: skip
    assert (
        len(told["codebook"]["utilisation"]) == len(told["codebook"]["perplexity"]) == told["codebook"]["levels"] == 3
    )
    assert {arm["arm"] for arm in told["arms"]} == {"id", "content", "id_codes", "shuffled_codes", "gbdt"}
    for arm in told["arms"]:
        assert set(arm) == {
            "arm", "auc", "gauc", "logloss", "auc_cold", "auc_warm", "rows", "rows_cold", "oracle_auc",
        }  # fmt: skip
        assert 0 < arm["auc"] < arm["oracle_auc"] < 1
    for stage in told["stages"]:
        assert set(stage) == {"name", "rows", "seconds"}
