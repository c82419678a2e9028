"""The sentences at the end of a run: claims follow verdicts, reasons are named, each step is a command or a setting."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.data.code_schema import may_read_code_stats
from ranking.evaluation.evaluator import SliceSize
from ranking.pipeline.conclusions import (
    RunFacts,
    ServingChoice,
    conclusions,
    gain_sentence,
    next_steps,
    rows_sentence,
    serving_sentence,
)
from ranking.pipeline.evaluation import ArmDifference, RunEvaluation
from ranking.pipeline.presets import load_preset
from ranking.pipeline.questions import Question, baselines, questions, without_baselines
from sidkit.core.intervals import Interval, verdict_on
from sidkit.presets import preset_names

IDS = Question("id_codes", "id", "ids")
CONTENT = Question("id_codes", "content", "content")
SHUFFLED = Question("id_codes", "shuffled_codes", "shuffled codes")
BOOSTING = Question("id_codes", "gbdt", "boosting")
BLEND = Question("id_codes", "blend", "the blend")
ALL = (IDS, CONTENT, SHUFFLED, BOOSTING)
GAIN, LOSS, NONE = (0.02, 0.01, 0.03), (-0.02, -0.03, -0.01), (0.002, -0.01, 0.014)
FACTS = RunFacts("my repo", "my_data", "rqkmeans", "cb_1", 3, None)


def evaluation(differences: dict[Question, Any], cold: int = 600, overall: int = 4000) -> RunEvaluation:
    """An invented evaluation; each question has a (value, low, high), or one per slice."""
    sizes = {"all": SliceSize(40_000, overall, 900, 700.0), "cold": SliceSize(5_000, cold, 500, 300.0)}
    listed = []
    for question, values in differences.items():
        for name, positives in (("all", overall), ("cold", cold)):
            of_slice = values[name] if isinstance(values, dict) else values
            if of_slice is not None:
                verdict = verdict_on(Interval(*of_slice), positives, sizes[name].effective_users)
                listed.append(
                    ArmDifference(
                        question.arm, question.baseline, name, *of_slice, positives, verdict.outcome, verdict.reason
                    )
                )
    return RunEvaluation({}, tuple(listed), sizes, {}, None, "request")


def steps(*arguments: Any, **facts: Any) -> str:
    return " ".join(next_steps(*arguments, RunFacts(**{**vars(FACTS), **facts})))


def test_a_gain_has_its_interval_on_cold_and_on_all_rows() -> None:
    said = gain_sentence(evaluation({IDS: {"cold": GAIN, "all": LOSS}}), IDS)
    assert said == (
        "Codes over ids (id_codes against id): a gain of 0.0200 AUC on cold rows [+0.0100, +0.0300]; a loss of 0.0200 AUC on "
        "all rows [-0.0300, -0.0100]."
    )


def test_no_evidence_names_which_reason_holds() -> None:
    wide, few = evaluation({IDS: NONE}), evaluation({IDS: GAIN}, cold=312)
    assert gain_sentence(wide, IDS).count("the interval contains 0") == 2
    said = gain_sentence(few, IDS)
    assert "no evidence on cold rows (+0.0200 AUC [+0.0100, +0.0300]): 312 positives (500 needed);" in said
    assert "a gain of 0.0200 AUC on all rows" in said


def test_a_log_that_is_too_small_says_so_once() -> None:
    few = evaluation(dict.fromkeys(ALL, GAIN), cold=12, overall=66)
    said = conclusions(few, ALL, ServingChoice.of([(0.61, "r", "id")]), FACTS)
    assert said[2:4] == (
        "No verdict on codes on cold rows: 12 positives (500 needed).",
        "No verdict on codes on all rows: 66 positives (500 needed).",
    )
    assert said[4] == (
        "Measured AUC of codes without a verdict, over ids +0.0200 on cold rows, +0.0200 on all rows; over content +0.0200 on "
        "cold rows, +0.0200 on all rows; over shuffled codes +0.0200 on cold rows, +0.0200 on all rows; over boosting +0.0200 "
        "on cold rows, +0.0200 on all rows."
    )
    assert len(said) == 6 and "times as many rows would do" in said[5]


def test_one_seed_is_named_once_as_the_reason() -> None:
    said = conclusions(
        evaluation({IDS: GAIN}), [IDS], ServingChoice.of([(0.61, "r", "id")]), RunFacts(**{**vars(FACTS), "seeds": 1})
    )
    assert said[2] == (
        "No verdict on codes on cold rows or on all rows: one seed, so the variance of training is unknown."
    )
    assert not any("gain of" in sentence for sentence in said)
    assert "--seeds 3" in said[-1]


def test_a_slice_without_an_auc_is_not_measured() -> None:
    said = gain_sentence(evaluation({IDS: {"cold": None, "all": GAIN}}, cold=20), IDS)
    assert "not measured on cold rows, which have too few positives for an AUC" in said


bounds = st.floats(-0.2, 0.2, allow_nan=False)


@given(
    st.lists(st.tuples(bounds, bounds, bounds).map(lambda drawn: tuple(sorted(drawn))), min_size=8, max_size=8),
    st.integers(0, 2000),
    st.integers(0, 2000),
    st.integers(1, 3),
)
def test_no_sentence_claims_what_its_interval_or_positives_do_not_support(
    drawn: list[tuple[float, float, float]], cold: int, more: int, seeds: int
) -> None:
    values = {
        question: {"all": (all_[1], all_[0], all_[2]), "cold": (cold_[1], cold_[0], cold_[2])}
        for question, all_, cold_ in zip(ALL, drawn[:4], drawn[4:], strict=True)
    }
    found = evaluation(values, cold, cold + more)
    choice = ServingChoice.of([(0.61, "r", "id")])
    sentences = conclusions(found, ALL, choice, RunFacts("r", "d", "smile", "c", seeds, 1000))
    decided = {name: found.rows[name].positives >= 500 and seeds > 1 for name in ("cold", "all")}
    of_question = {
        question: next((s for s in sentences if s.startswith(f"Codes over {question.over} ")), "") for question in ALL
    }
    assert all(of_question.values()) == any(of_question.values()) == any(decided.values())
    for question, sentence in of_question.items():
        for name, where in (("cold", "on cold rows"), ("all", "on all rows")):
            _, low, high = values[question][name]
            claims = re.findall(rf"a (gain|loss) of [\d.]+ AUC {where}", sentence)
            assert claims == (["gain"] if decided[name] and low > 0 else ["loss"] if decided[name] and high < 0 else [])
            assert (f"no evidence {where}" in sentence) == (decided[name] and not claims)
    for name, where in (("cold", "on cold rows"), ("all", "on all rows")):
        assert any(s.startswith("No verdict") and where in s for s in sentences) == (not decided[name])
    for sentence in set(sentences) - set(of_question.values()):
        assert "gain of" not in sentence
        if "is ahead of codes" in sentence:
            question = CONTENT if sentence.startswith("Content") else BOOSTING
            behind = [values[question][name][2] < 0 for name in ("cold", "all") if found.rows[name].positives >= 500]
            assert any(behind)
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in sentences)


def test_the_serving_ranker_is_the_best_on_validation_rows_with_the_others_beside() -> None:
    choice = ServingChoice.of([(0.60, "a_id", "id"), (0.65, "a_codes", "id_codes"), (0.61, "b_id", "id")])
    assert serving_sentence(choice) == (
        "a_codes serves: arm id_codes, validation AUC 0.6500, the best validation AUC of the arms that may serve, ahead of id "
        "0.6100."
    )
    assert "the only arm that may serve" in serving_sentence(ServingChoice.of([(0.6, "a", "id")]))
    assert "ranker.serve" in serving_sentence(ServingChoice.of([]))


def test_the_number_of_cold_rows_and_positives_is_stated() -> None:
    said = rows_sentence(evaluation({}, cold=312))
    assert "5,000 with 312 positives, of 40,000 test rows with 4,000 positives" in said
    assert "under 10 earlier interactions" in said


def test_too_few_positives_say_how_many_rows_are_needed() -> None:
    few = evaluation({IDS: GAIN}, cold=125)
    assert "the cold rows have 125 of 300: 4.0 times as many rows" in steps(few, ALL)
    assert "split.train in sidkit.toml" in steps(few, ALL)
    assert "--impressions 800000" in steps(few, ALL, impressions=200_000)


def test_codes_that_are_not_ahead_of_shuffled_ones_send_to_the_code_tree_and_another_preset() -> None:
    same = evaluation({SHUFFLED: NONE})
    assert "`sidkit codebooks report cb_1 --repo 'my repo'`" in steps(same, [SHUFFLED])
    assert "--preset smile" in steps(same, [SHUFFLED])
    assert "--preset saviorrec" in steps(same, [SHUFFLED], preset="smile")
    assert "codebooks report" not in steps(evaluation({SHUFFLED: GAIN}), [SHUFFLED])


@pytest.mark.parametrize(
    ("question", "names"), [(CONTENT, "prefix_ngram"), (BOOSTING, "numeric_bins"), (BLEND, "in its of")]
)
def test_a_baseline_that_is_ahead_names_a_setting(question: Question, names: str) -> None:
    assert names in steps(evaluation({question: LOSS}), [question])
    assert names not in steps(evaluation({question: NONE}), [question])


def test_one_seed_asks_for_more_and_a_clear_gain_for_the_comparison() -> None:
    assert "--seeds 3" in steps(evaluation({IDS: NONE}), [IDS], seeds=1)
    assert "--seeds" not in steps(evaluation({IDS: NONE}), [IDS], seeds=3)
    assert "`sidkit ranker compare --data my_data --repo 'my repo'`" in steps(evaluation({IDS: GAIN}), [IDS])


@pytest.mark.parametrize("name", sorted({*preset_names()} - {"large"}))
def test_every_preset_asks_about_ids_content_shuffled_codes_boosting_and_the_blend(name: str) -> None:
    preset, by_prefix = load_preset(name), reading_statistics(name)
    favourite = name if name in preset.arms else "id_codes"
    best = {arm: (0.7 if arm == favourite else 0.6,) for arm in preset.arms}
    asked = [each for each in questions(preset, best, by_prefix) if each.baseline != "content_codes_shuffled"]
    assert [question.over for question in asked] == [
        "ids", "content", "ids and content", "shuffled codes", "boosting", "the blend",
    ]  # fmt: skip
    # The control has the inputs of id_codes, so only that arm is compared with it.
    expected = name if name in preset.arms else "id_codes"
    assert {question.over: question.arm for question in asked} == {
        "ids": expected, "content": expected, "ids and content": expected, "shuffled codes": "id_codes", "boosting": expected,
        "the blend": expected,
    }  # fmt: skip
    without_codes = ["id", "content", "id_content", "shuffled_codes", "gbdt", "blend"]
    assert [arm for arm in baselines(preset, by_prefix) if arm != "content_codes_shuffled"] == without_codes


def test_the_preset_for_large_logs_asks_about_ids_and_content_and_boosting() -> None:
    preset = load_preset("large")
    asked = questions(preset, dict.fromkeys(preset.arms, (0.6,)), reading_statistics("large"))
    assert asked == (
        Question("content_codes", "id_content", "ids and content"),
        Question("content_codes", "gbdt", "boosting"),
    )


def test_statistics_of_codes_are_compared_with_those_of_shuffled_codes() -> None:
    preset = load_preset("rqkmeans")
    asked = questions(preset, dict.fromkeys(preset.arms, (0.6,)), reading_statistics("rqkmeans"))
    assert Question("content_codes", "content_codes_shuffled", "shuffled codes") in asked
    assert Question("id_codes", "shuffled_codes", "shuffled codes") in asked


def reading_statistics(name: str) -> set[str]:
    """The arms of a preset that read statistics of codes where there are any."""
    arms = load_preset(name).arms.items()
    return {arm for arm, spec in arms if spec.kind != "blend" and may_read_code_stats(spec.features)}


def test_a_blend_with_codes_is_no_baseline_for_codes() -> None:
    preset = load_preset("rqkmeans")
    coded = preset.arms["blend"].model_copy(update={"of": ("gbdt", "id_codes")})
    preset = preset.model_copy(update={"arms": {**preset.arms, "blend": coded}})
    against = baselines(preset, reading_statistics("rqkmeans"))
    assert "blend" not in against
    assert {"id", "content", "id_content", "shuffled_codes", "gbdt"} <= set(against)


def test_an_arm_that_reads_statistics_of_codes_is_no_baseline_for_codes() -> None:
    preset = load_preset("rqkmeans")
    reading = {"content", "gbdt", "id_codes", "content_codes"}
    assert baselines(preset, reading) == ["id", "id_content", "shuffled_codes", "content_codes_shuffled"]
    assert without_baselines(preset, reading) is None
    asked = questions(preset, {arm: (0.7 if arm == "content" else 0.6,) for arm in preset.arms}, reading)
    assert [(each.arm, each.over) for each in asked] == [
        ("content", "ids"), ("content", "ids and content"), ("id_codes", "shuffled codes"),
        ("content_codes", "shuffled codes"),
    ]  # fmt: skip


def test_a_preset_whose_baselines_all_read_statistics_of_codes_is_named() -> None:
    preset = load_preset("rqkmeans")
    text = without_baselines(preset, set(preset.arms) - {"blend"})
    assert text is not None
    assert "id, content, content_codes, id_content, gbdt read statistics of codes" in text
    assert 'add features = ["!*code_*"]' in text
    assert without_baselines(preset, ()) is None
