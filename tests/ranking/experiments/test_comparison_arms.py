"""Arms are small files that name their codebook; origins are the same split, moved back."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import DAY, FAST_PRESET, START
from ranking.data.split import TimeSplit
from ranking.experiments.comparison.arms import arm_name, arm_names, load_arms, paper_number, shipped_arms
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.time_origins import time_origins
from ranking.pipeline.presets import load_preset
from sidkit.core.config import SplitSettings
from sidkit.core.errors import ConfigError, EvaluationError

law = settings(max_examples=60, deadline=None, database=None)
PAPERS = [
    "id", "id_content", "codes", "id_codes", "id_codes_shuffled", "id_codes_random", "id_prefix_ngram", "id_spm", "mba",
    "saviorrec", "smile_rq", "smile_opq", "smile", "saviorrec_smile", "gbdt",
]  # fmt: skip


def test_the_arms_of_the_protocol_are_shipped_and_all_is_those() -> None:
    arms = load_arms(["papers"])
    # Beside the papers' arms, what their inputs give without their ideas.
    without = {"id_codes_smile", "id_content_codes_smile", "id_content_codes_saviorrec"}
    assert set(arms) == {*PAPERS, *without, "smile_content", "blend"}
    assert [arm for arm in arms if arm in PAPERS] == PAPERS
    assert {arm.baseline for arm in arms.values()} == {*without, "id_content", None}


@pytest.mark.parametrize("name", arm_names())
def test_every_shipped_arm_loads_and_its_codebook_can_be_made(name: str) -> None:
    arm = load_arms(list(dict.fromkeys([name, *shipped_arms()[name].of])))[name]
    assert arm.title
    assert arm.codebook_spec().levels >= 3
    arm.model_spec(load_preset("rqkmeans").ranker.model)


def test_arms_share_the_codes_that_they_are_to_be_compared_on() -> None:
    arms = load_arms(["papers"])
    books = {name: arm.codebook for name, arm in arms.items()}
    assert {books[name] for name in (*PAPERS[:8], "gbdt")} == {"rqkmeans"}
    assert {books[name] for name in ("mba", "saviorrec")} == {"saviorrec"}
    assert {books[name] for name in ("smile_rq", "smile_opq", "smile", "saviorrec_smile")} == {"smile"}
    # The control has everything of what it controls but the meaning of the codes.
    assert arms["id_codes_shuffled"].trained_by() | {"shuffle_codes": False} == arms["id_codes"].trained_by()
    assert arms["id_codes_random"].trained_by() | {"random_codes": False} == arms["id_codes"].trained_by()


def test_an_arm_may_change_its_codebook_and_nothing_else_of_the_preset() -> None:
    base, (changed,) = load_preset("rqkmeans").codebook, load_arms(["id_codes_rq5"]).values()
    assert changed.codebook_spec() == base.model_copy(update={"levels": 5})


def test_numbers_of_the_papers_table_name_arms_too(tmp_path: Path) -> None:
    found = list(load_arms(["A3", "id", "A12_content", "T_pq", "A0"]))
    assert found == ["id_codes", "id", "smile_content", "id_codes_pq"]
    assert [paper_number(arm) for arm in PAPERS] == [*(f"A{number}" for number in range(14)), ""]
    unnumbered = [
        "gbdt", "gbdt_codes", "gbdt_codes_shuffled", "blend", "blend_codes", "blend_codes_shuffled", "blend_content",
        "content", "content_codes", "content_codes_shuffled", "codes_only", "id_content_prior", "id_content_prior_random",
        "gatesid", "gatesid_shuffled", "blend_counts", "blend_counts_shuffled", "id_content_graph", "id_content_graph_random",
        "id_content_graph_clicks", "id_content_graph_clicks_random", "id_content_lm_prior", "id_content_lm_prior_random",
        "id_codes_psrq", "id_codes_psrq_shuffled", "id_codes_rk_fsq", "id_codes_rk_fsq_shuffled", "id_codes_aspects",
        "smile_kept", "smile_kept_shuffled", "spm", "prefix_ngram", "hashed_ids", "content_attributes",
        "id_codes_attributes", "id_codes_attributes_shuffled", "id_content_groups", "id_content_groups_random",
        "id_codes_aspects_shuffled", "id_codes_views", "id_codes_views_shuffled", "id_content_codes_views", "ccfrec",
        "id_content_bias", "id_content_bias_shuffled", "gbdt_bias", "content_gate", "content_gate_shuffled",
        "id_content_joint", "id_content_joint_shuffled",
        "ccfrec_shuffled", "hisam", "hisam_shuffled", "id_codes_shared_private", "id_codes_mass",
        "id_codes_mass_shuffled", "id_content_codes_mass", "mmq", "mmq_shuffled",
        "content_codes_after", "id_codes_after", "id_content_after", "id_content_graph_after",
    ]  # fmt: skip
    assert len({arm_name(paper_number(arm)) for arm in arm_names()} - {""}) == len(arm_names()) - len(unnumbered)
    text = 'title = "t"\nrepresentations = ["id"]\nbaseline = "A3_smile"\n'
    assert load_arms([own(tmp_path, text)])["mine"].baseline == "id_codes_smile"
    with pytest.raises(ConfigError, match="'A0' is the number of the shipped arm 'id'; rename the file"):
        load_arms([own(tmp_path, text, "A0")])


def own(folder: Path, text: str, name: str = "mine") -> str:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return str(path)


def test_a_user_brings_arms_by_path(tmp_path: Path) -> None:
    text = f'title = "mine"\nrepresentations = ["content"]\ncodebook = "{FAST_PRESET}"\n'
    arms = load_arms(["id", own(tmp_path, text)])
    assert list(arms) == ["id", "mine"]
    assert arms["mine"].codebook_spec() == load_preset(str(FAST_PRESET)).codebook


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('representations = ["id"]\n', "title"),
        ('title = "t"\nrepresentations = ["idd"]\n', "idd"),
        ('title = "t"\nrepresentation = ["id"]\n', "representation"),
        ('title = "t"\nkind = "gbdt"\nshuffle_codes = true\nfeatures = []\n', "gbdt arm with these settings"),
    ],
)
def test_an_arm_that_could_never_train_is_refused_when_it_is_read(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_arms([own(tmp_path, text)])


def test_a_blend_names_given_arms_by_name_or_number_and_is_refused_without_them(tmp_path: Path) -> None:
    text = 'title = "t"\nkind = "blend"\nof = ["A0", "gbdt"]\n'
    assert load_arms([own(tmp_path, text), "gbdt", "id"])["mine"].of == ("id", "gbdt")
    with pytest.raises(
        ConfigError, match=r"arms\.blend\.of: expected arms of the same run \(id\), got 'gbdt'; add this arm"
    ):
        load_arms(["blend", "id"])


def test_unknown_names_twice_the_same_name_and_no_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown arm 'A99'; expected one of id.*gbdt"):
        load_arms(["A99"])
    with pytest.raises(ConfigError, match="two arms have the name 'id'"):
        load_arms(["id", own(tmp_path, 'title = "t"\nrepresentations = ["id"]\n', "id")])
    with pytest.raises(ConfigError, match="no arms given"):
        load_arms([])
    text = 'title = "t"\nrepresentations = ["id"]\n[codebook_changes]\nlevel = 5\n'
    with pytest.raises(ConfigError, match=r"codebook_changes has unknown keys: level; .*levels"):
        load_arms([own(tmp_path, text)])["mine"].codebook_spec()


@law
@given(st.lists(st.integers(0, 400), min_size=30, max_size=300), st.integers(1, 5))
def test_origins_go_back_one_test_window_at_a_time_and_never_overlap(moments: list[int], count: int) -> None:
    at_us = np.sort(np.array(moments, dtype=np.int64)) + START
    settings_ = SplitSettings(train=0.6, validation=0.2)
    try:
        found = time_origins(at_us, settings_, count)
    except EvaluationError:
        return
    assert found[0].split == TimeSplit.of(at_us, settings_)
    assert found[0].end_us is None
    for later, earlier in itertools.pairwise(found):
        assert earlier.end_us is not None
        # The earlier origin's test rows are the later one's validation or training rows.
        assert earlier.end_us <= later.split.validation_end_us
        assert earlier.split.train_end_us < earlier.split.validation_end_us < earlier.end_us
    for origin in found:
        rows = at_us[origin.rows(at_us)]
        parts = origin.split.parts(rows)
        assert all(len(part) for part in parts.values())
        assert origin.end_us is None or rows.max() < origin.end_us


def test_without_ties_three_origins_have_windows_of_one_size() -> None:
    at_us = START + np.arange(1000, dtype=np.int64) * DAY
    sizes = []
    for origin in time_origins(at_us, SplitSettings(train=0.8, validation=0.1), 3):
        rows = at_us[origin.rows(at_us)]
        sizes.append([len(part) for part in origin.split.parts(rows).values()])
    assert sizes == [[800, 100, 100], [700, 100, 100], [600, 100, 100]]


def test_more_origins_than_there_are_rows_for_are_refused() -> None:
    at_us = START + np.arange(1000, dtype=np.int64)
    with pytest.raises(EvaluationError, match=r"no room for time origin 8: .*fewer time origins"):
        time_origins(at_us, SplitSettings(train=0.8, validation=0.1), 9)


def test_data_sets_have_short_names() -> None:
    names = [data_name(each) for each in ("synthetic", "synthetic:none", "/data/ml_latest_small/", "sqlite:///a/b.db")]
    assert names == ["synthetic_strong", "synthetic_none", "ml_latest_small", "b.db"]
