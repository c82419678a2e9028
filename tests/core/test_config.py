"""Settings as people write them, and moments as people type them: what is read and what is refused."""

from __future__ import annotations

import calendar
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sidkit.core.clock import from_us, iso, parse_time, to_us
from sidkit.core.config import NegativeSettings, Settings, TimeSettings, content_hash, load_section
from sidkit.core.errors import ConfigError, TimeError
from sidkit.core.repo import template_folder


def load(folder: Path, text: str) -> Settings:
    (folder / "sidkit.toml").write_text(text, encoding="utf-8")
    return Settings.load(folder / "sidkit.toml")


def test_an_empty_file_gives_the_defaults_and_the_template_states_them(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Settings()
    template = Settings.load(template_folder() / "sidkit.toml")
    assert template.features.extra == ("user_recency:hours_since_last_click",)  # an example, defined in the template
    assert template.model_copy(update={"features": Settings().features}) == Settings()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[source]\nurll = "x"', "source.urll"),
        ("[time]\ndelay = 60", "time.delay"),
        ("[sauce]\nx = 1", "sauce"),
        ("threads = 2", "threads"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"sidkit\.toml: {key}: Extra inputs are not permitted"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "key", "found"),
    [
        ("[time]\navailability_delay_seconds = 0", "time.availability_delay_seconds", "0"),
        ("[time]\navailability_delay_seconds = -1.0", "time.availability_delay_seconds", "-1.0"),
        ("[time]\navailability_delay_seconds = nan", "time.availability_delay_seconds", "nan"),
        ("[time]\navailability_delay_seconds = 1e-7", "time.availability_delay_seconds", "1e-07"),
        ("[time]\navailability_delay_seconds = inf", "time.availability_delay_seconds", "inf"),
        ("[time]\nstats_cadence_seconds = 0", "time.stats_cadence_seconds", "0"),
        ("[time]\nhistory_length = 2.5", "time.history_length", "2.5"),
        ('[source]\nfeedback = "clicks"', "source.feedback", "'clicks'"),
        ("[source]\nmax_reject_share = 1.5", "source.max_reject_share", "1.5"),
        ('[source]\nmodalities = "text"', "source.modalities", "'text'"),
        ("[negatives]\nper_positive = 0", "negatives.per_positive", "0"),
        ('[negatives]\nstrategy = "popular"', "negatives.strategy", "'popular'"),
        ("[split]\ntrain = 1.0", "split.train", "1.0"),
        ("[split]\ncodebook = 0", "split.codebook", "0"),
        ("[engine]\nthreads = 0", "engine.threads", "0"),
        ("[engine]\nchunk_rows = 0", "engine.chunk_rows", "0"),
        (
            '[engine]\nmemory_limit = "a lot"',
            "engine.memory_limit",
            "'a lot'",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_file_key_and_what_was_found(
    tmp_path: Path, text: str, key: str, found: str
) -> None:
    with pytest.raises(ConfigError, match=rf"sidkit\.toml: {key}: .*\(got {found}\)"):
        load(tmp_path, text)


def test_all_wrong_values_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"split\.train: .*; engine\.threads: "):
        load(tmp_path, "[split]\ntrain = 2\n[engine]\nthreads = 0")


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_a_split_leaves_something_to_test_on(tmp_path: Path, share: float) -> None:
    assert load(tmp_path, f"[split]\ntrain = 0.8\nvalidation = {share / 2}").split.validation == share / 2
    with pytest.raises(ConfigError, match=r"expected split\.train \+ split\.validation below 1"):
        load(tmp_path, f"[split]\ntrain = 0.9\nvalidation = {share}")


def test_a_split_leaves_rows_to_train_rankers_on(tmp_path: Path) -> None:
    assert load(tmp_path, "[split]\ntrain = 0.5\ncodebook = 0.4").split.codebook_share == 0.4
    assert load(tmp_path, "[split]\ntrain = 0.9\nvalidation = 0.05").split.codebook_share == 0.5625
    assert load(tmp_path, "[split]\ntrain = 0.2").split.codebook_share == 0.125, "the default leaves 3/8 of the rows"
    with pytest.raises(ConfigError, match=r"expected split\.codebook below split\.train, got 0\.5 and 0\.5"):
        load(tmp_path, "[split]\ntrain = 0.5\ncodebook = 0.5")


@pytest.mark.parametrize(
    "names", ['""', '"my text"', '"_text"', '"text_y"', '"item_id"', '"event_timestamp"', '"text", "text"']
)
def test_a_modality_that_cannot_be_a_feature_is_refused(tmp_path: Path, names: str) -> None:
    with pytest.raises(ConfigError, match=r"sidkit\.toml: source\.modalities: "):
        load(tmp_path, f"[source]\nmodalities = [{names}]")


def test_a_file_that_is_no_settings_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read \(No such file"):
        Settings.load(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match=r"sidkit\.toml is not valid TOML: Expected"):
        load(tmp_path, "[source")
    (tmp_path / "sidkit.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        Settings.load(tmp_path / "sidkit.toml")


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().time.history_length = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "decides"),
    [
        ('[source]\nmodalities = ["image"]', "source.modalities"),
        ('[source]\nfeedback = "positives_only"', "source.feedback"),
        ("[source]\nconversions = true", "source.conversions"),
        ("[time]\navailability_delay_seconds = 1.5", "time.availability_delay_seconds"),
        ("[time]\nstats_cadence_seconds = 3600", "time.stats_cadence_seconds"),
        ("[time]\nhistory_length = 3", "time.history_length"),
        ('[source]\nurl = "elsewhere"', None),
        ("[negatives]\nseed = 3", None),
        ("[split]\ntrain = 0.5", None),
        ("[engine]\nthreads = 1", None),
        ('[catalog]\nurl = "sqlite:///other.sqlite"', None),
    ],
)
def test_feature_settings_are_those_that_decide_the_tables(tmp_path: Path, text: str, decides: str | None) -> None:
    default, now = Settings().feature_settings(), load(tmp_path, text).feature_settings()
    assert {key for key in default if default[key] != now[key]} == ({decides} if decides else set())
    assert json.loads(json.dumps(now)) == now


def test_a_section_is_read_alone_and_a_missing_one_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "preset.toml"
    path.write_text("[negatives]\nper_positive = 2\n[other]\nx = 1")
    assert load_section(NegativeSettings, path, "negatives") == NegativeSettings(per_positive=2)
    assert load_section(TimeSettings, path, "time") == TimeSettings()
    with pytest.raises(ConfigError, match=r"preset\.toml: x: Extra inputs"):
        load_section(TimeSettings, path, "other")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=3), JSON, min_size=2, max_size=5))
def test_a_content_hash_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    assert content_hash({key: value[key] for key in reversed(value)}) == content_hash(value)


@settings(max_examples=60, deadline=None)
@given(JSON, JSON)
def test_a_content_hash_tells_values_apart(left: Any, right: Any) -> None:
    same = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert (content_hash(left) == content_hash(right)) == same


ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
AWARE = st.datetimes(datetime(1900, 1, 1), datetime(2300, 1, 1), timezones=ZONES)


@settings(max_examples=60, deadline=None)
@given(AWARE)
def test_moments_are_exact_to_the_microsecond(moment: datetime) -> None:
    micros = to_us(moment)
    assert micros == calendar.timegm(moment.utctimetuple()) * 1_000_000 + moment.microsecond
    assert from_us(micros) == moment
    assert from_us(micros).tzinfo is UTC
    assert parse_time(moment.isoformat()) == parse_time(iso(micros)) == micros


def test_naive_times_are_refused_with_the_remedy() -> None:
    remedy = r"expected a time with a zone, got 2024-01-31T08:00:00; write it as 2024-01-31T08:00:00\+00:00"
    with pytest.raises(TimeError, match=remedy):
        to_us(datetime(2024, 1, 31, 8))
    for text in ("2024-01-31T08:00:00", "2024-01-31 08:00"):
        with pytest.raises(TimeError, match=remedy):
            parse_time(text)


@pytest.mark.parametrize("text", ["", "soon", "2024-13-01T00:00:00Z", "1706688000"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(TimeError, match="expected an ISO 8601 time with a zone, such as 2024-01-31T08:00:00Z"):
        parse_time(text)


def test_no_text_means_now() -> None:
    before = to_us(datetime.now(UTC))
    assert before <= parse_time(None) <= to_us(datetime.now(UTC))


def test_settings_in_seconds_become_exact_microseconds() -> None:
    assert TimeSettings(availability_delay_seconds=0.1).delay_us == 100_000
    assert TimeSettings(availability_delay_seconds=1.000001).delay_us == 1_000_001
    assert TimeSettings(stats_cadence_seconds=7000).cadence_us == 7_000_000_000
