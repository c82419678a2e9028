"""Scores of sampled negatives: which are rates, and the shift to a stated base rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from ranking.data.targets import CLICKED, CONVERTED, check_target
from ranking.training.calibration import Calibration
from sidkit.core.config import NegativeSettings, Settings, SourceSettings
from sidkit.core.errors import ConfigError


def settings(
    feedback: str = "positives_only", base_rate: float | None = None, *, conversions: bool = False
) -> Settings:
    source = SourceSettings.model_validate({"feedback": feedback, "conversions": conversions})
    return Settings(source=source, negatives=NegativeSettings(base_rate=base_rate))


def test_scores_of_a_log_of_exposures_are_rates() -> None:
    for target in (CLICKED, CONVERTED):
        calibration = Calibration.of(settings("impressions"), target, 0.08)
        scores = np.array([0.0, 0.3, 1.0])
        assert calibration.calibrated
        assert calibration.apply(scores) is scores


def test_scores_of_sampled_negatives_are_no_rates_until_the_base_rate_is_stated() -> None:
    without = Calibration.of(settings(), CLICKED, 0.2)
    assert not without.calibrated
    assert "base_rate under [negatives] in sidkit.toml" in without.reason
    stated = Calibration.of(settings(base_rate=0.02), CLICKED, 0.2)
    assert stated.calibrated
    assert stated.reason == "shifted from 0.2 positives in training to the stated base rate 0.02"
    assert stated.apply(np.array([0.2])) == pytest.approx(0.02)


def test_a_base_rate_of_clicks_does_not_make_conversions_rates() -> None:
    calibration = Calibration.of(settings(base_rate=0.02), CONVERTED, 0.2)
    assert not calibration.calibrated
    assert calibration.shift == 0


def test_the_shift_restores_the_rates_of_a_case_control_sample() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200_000, 1))
    click = rng.random(len(x)) < 1 / (1 + np.exp(4.5 - 1.2 * x[:, 0]))
    kept = click | (rng.random(len(x)) < 0.05)
    model = LogisticRegression().fit(x[kept], click[kept])
    raw = model.predict_proba(x)[:, 1]
    shifted = Calibration.of(settings(base_rate=float(click.mean())), CLICKED, float(click[kept].mean())).apply(raw)
    assert raw.mean() > 5 * click.mean()
    assert shifted.mean() == pytest.approx(click.mean(), rel=0.03)
    assert log_loss(click, shifted) < log_loss(click, raw) - 0.02
    assert roc_auc_score(click, shifted) == roc_auc_score(click, raw)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=20),
    st.floats(1e-4, 0.9999),
    st.floats(1e-4, 0.9999),
)
def test_shifted_scores_are_finite_probabilities_in_the_same_order(
    scores: list[float], base: float, trained: float
) -> None:
    given_scores = np.sort(np.array(scores))
    shifted = Calibration.of(settings(base_rate=base), CLICKED, trained).apply(given_scores)
    assert np.isfinite(shifted).all()
    assert ((shifted >= 0) & (shifted <= 1)).all()
    assert (np.diff(shifted) >= 0).all()


@pytest.mark.parametrize("base_rate", [0.0, 1.0, -0.1, 2.0])
def test_a_base_rate_is_a_share(base_rate: float) -> None:
    with pytest.raises(ValueError, match="base_rate"):
        NegativeSettings(base_rate=base_rate)


def test_a_base_rate_without_sampled_negatives_is_refused() -> None:
    with pytest.raises(ValueError, match=r"negatives\.base_rate: expected only with source\.feedback"):
        settings("impressions", base_rate=0.02)


def test_conversions_as_target_need_a_log_with_conversions() -> None:
    check_target(settings(conversions=True), CONVERTED)
    check_target(settings(), CLICKED)
    with pytest.raises(ConfigError, match="expected a log with conversions .* got source.conversions = false"):
        check_target(settings(), CONVERTED)
