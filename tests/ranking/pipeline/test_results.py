"""The result of a run as a Python user sees it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from helpers.builders import FinishedJob
from sidkit.core.intervals import NO_EVIDENCE


def test_arms_have_one_row_per_arm_and_slice(finished: FinishedJob) -> None:
    result = finished.result
    frame = result.arms
    assert list(frame["arm"].unique()) == list(result.evaluation.arms)
    assert not frame.duplicated(["arm", "slice"]).any()
    row = frame[(frame["arm"] == "id_codes") & (frame["slice"] == "all")].iloc[0]
    metrics = result.evaluation.arms["id_codes"]["all"]
    assert (row["auc"], row["gauc"], row["logloss"]) == (metrics.auc, metrics.gauc, metrics.logloss)
    assert row["low"] <= row["auc"] <= row["high"]
    assert row["rows"] == result.evaluation.rows["all"].rows
    assert all(frame[name].dtype == np.float64 for name in ("auc", "low", "high", "gauc", "logloss"))


def test_comparisons_have_an_outcome_and_its_reason(finished: FinishedJob) -> None:
    frame = finished.result.comparisons
    assert len(frame) == len(finished.result.evaluation.differences)
    assert {"id", "content", "shuffled_codes", "gbdt", "blend"} == set(frame["baseline"])
    undecided = frame[frame["outcome"] == NO_EVIDENCE]
    assert (
        undecided["reason"].str.contains(r"^\d+ positives \(500 needed\) and \d+ effective users \(200 needed\)$").all()
    )
    decided = frame[frame["outcome"] != NO_EVIDENCE]
    assert ((decided["low"] > 0) | (decided["high"] < 0)).all()


def test_a_result_names_its_ranker_its_codebook_and_its_report(finished: FinishedJob) -> None:
    result = finished.result
    assert result.ranker == finished.output["artifacts"]["serving_ranker"]
    assert result.report.is_file()
    assert finished.output["report"] == str(result.report)
    assert finished.output["conclusions"] == list(result.conclusions)
    assert result.conclusions[0].startswith(f"{result.ranker} serves: arm ")
    assert repr(result) == str(result)
    assert result.ranker is not None and result.ranker in repr(result)
    assert len(repr(result)) < 400


def test_a_notebook_shows_sentences_and_tables_escaped(finished: FinishedJob) -> None:
    nasty = replace(finished.result.evaluation, arms={"<b>": finished.result.evaluation.arms["id"]})
    result = replace(finished.result, evaluation=nasty)
    shown = result._repr_html_()
    assert "<b>" not in shown
    assert "&lt;b&gt;" in shown
    assert shown.count("<table") == 2
    assert shown.count("<li>") == len(result.conclusions)
