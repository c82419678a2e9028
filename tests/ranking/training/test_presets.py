"""Presets: what is shipped loads, and what is unknown is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from helpers.builders import FAST_PRESET
from ranking.data.code_schema import code_features
from ranking.data.schema import ExtraFeature, FeatureSchema
from ranking.models.representations import REPRESENTATIONS
from ranking.models.spec import ModelSpec
from ranking.pipeline.presets import arms_without_codes, load_preset
from ranking.training.arm_spec import ArmSpec
from ranking.training.spec import TrainingSpec
from semantic_ids.encoders import ENCODERS
from semantic_ids.quantizers import QUANTIZERS
from sidkit.core.errors import ConfigError
from sidkit.presets import preset_names

GOOD = '[ranker]\nserve = ["id"]\n\n[arms.id]\nrepresentations = ["id"]\n'
BLENDED = GOOD + '[arms.trees]\nkind = "gbdt"\n\n[arms.mix]\nkind = "blend"\nof = ["trees", "id"]\n'
MORE = '\n[arms.more]\nkind = "blend"\nof = ["trees", "id"]\n'


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", [*preset_names(), str(FAST_PRESET)])
def test_every_shipped_preset_loads_and_names_only_parts_that_exist(name: str) -> None:
    preset = load_preset(name)
    assert preset.codebook.encoder in ENCODERS
    assert preset.codebook.quantizer in QUANTIZERS
    assert set(preset.ranker.serve) <= set(preset.arms)
    for arm, spec in preset.arms.items():
        assert set(spec.representations) <= set(REPRESENTATIONS), arm
        assert bool(spec.representations) == (spec.kind == "neural"), arm
    for arm in preset.ranker.serve:
        assert preset.arms[arm].kind == "neural"
        assert not preset.arms[arm].shuffle_codes


def test_the_preset_for_large_logs_reads_training_rows_from_disk_and_trains_tables_by_row() -> None:
    training = load_preset("large").ranker.training
    assert training.stream_rows < 1_000_000
    assert training.table_optimiser == "rowwise_adagrad"
    assert training.caps.train is None  # all rows are used


def test_there_are_presets() -> None:
    assert "rqkmeans" in preset_names()


def test_a_preset_says_all_that_its_defaults_would(tmp_path: Path) -> None:
    preset = load_preset(written(tmp_path, GOOD))
    assert preset.ranker.model == ModelSpec()
    assert preset.ranker.training == TrainingSpec()
    assert preset.arms["id"].kind == "neural"


def test_a_preset_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_preset("rqkmeans").ranker.model.dim = 3  # type: ignore[misc]


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no preset named 'savior'; available: .*rqkmeans.*\.toml"):
        load_preset("savior")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_preset(str(tmp_path / "nowhere.toml"))


@pytest.mark.parametrize(
    ("addition", "where"),
    [
        ("[extra]\nx = 1\n", "extra"),
        ("[codebook]\nlevel = 3\n", "codebook.level"),
        ("[ranker.model]\ndims = 3\n", "ranker.model.dims"),
        ("[ranker.training]\nlearningrate = 0.1\n", "ranker.training.learningrate"),
        ('[arms.other]\nrepresentation = ["id"]\n', "arms.other.representation"),
    ],
)
def test_an_unknown_key_is_refused_by_its_place(tmp_path: Path, addition: str, where: str) -> None:
    with pytest.raises(ConfigError, match=rf"mine\.toml.*{re.escape(where)}.*not permitted"):
        load_preset(written(tmp_path, GOOD + addition))


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("ranker.model", "dim = 0"), ("ranker.model", "heads = 0"), ("ranker.model", "dropout = 1.0"),
        ("ranker.model", "id_dropout = -0.1"), ("ranker.model", "table_rows = 0"), ("ranker.training", "epochs = 0"),
        ("ranker.training", "patience = 0"), ("ranker.training", "batch_rows = 0"),
        ("ranker.training", "learning_rate = 0.0"), ("ranker.training", "max_train_rows = 0"),
        ("arms.other", 'kind = "forest"'), ("codebook", 'levels = "three"'),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_by_its_place(tmp_path: Path, section: str, line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{section}.{line.split(' ', maxsplit=1)[0]}")):
        load_preset(written(tmp_path, f"{GOOD}[{section}]\n{line}\n"))


def test_a_preset_without_arms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="arms"):
        load_preset(written(tmp_path, "[ranker]\nserve = []\n"))


def test_text_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_preset(written(tmp_path, "arms: [id]"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace('representations = ["id"]', 'representations = ["idd"]'), "idd"),
        (GOOD.replace('representations = ["id"]', "representations = []"), r"arms\.id"),
        (GOOD.replace('serve = ["id"]', 'serve = ["content"]'), "content"),
        (
            GOOD.replace('serve = ["id"]', 'serve = ["any"]')
            + '[arms.any]\nrepresentations = ["id"]\nmodel = {prior_random = true}\n',
            "arms that can serve .id., got any",
        ),
        (
            BLENDED.replace('serve = ["id"]', 'serve = ["mix"]') + "by_counts = true\nshuffled_counts = true\n",
            "arms that can serve .id, trees., got mix",
        ),
        (
            BLENDED.replace('"trees", "id"', '"trees", "idd"'),
            r"arms\.mix\.of: expected arms of the same run .id, trees.*'idd'",
        ),
        (BLENDED.replace('"trees", "id"', '"trees", "mix"'), r"arms\.mix\.of: the blend names itself"),
        (
            BLENDED.replace('"trees", "id"', '"trees", "more"') + MORE,
            r"arms\.mix\.of: 'more' is a blend; name the arms",
        ),
        (BLENDED.replace('"trees", "id"', '"id"'), "two to 5 distinct arms to blend, got id"),
        (BLENDED.replace('"trees", "id"', '"id", "id"'), "two to 5 distinct arms to blend, got id, id"),
        (GOOD + 'of = ["a", "b"]\n', "only a blend or adapter arm has 'of', got it for kind 'neural'"),
        (GOOD + "boosting = {leaves = 8}\n", "only a gbdt arm has 'boosting'"),
        (BLENDED + "shuffle_codes = true\n", "a blend arm with these settings reads no codes"),
        (GOOD + '[arms.trees]\nkind = "gbdt"\nboosting = {similarities = ["mean", "mean"]}\n', "distinct similarities"),
        (GOOD + '[arms.trees]\nkind = "gbdt"\nboosting = {leaves = 1}\n', r"arms\.trees\.boosting\.leaves"),
    ],
    ids=[
        "unknown representation",
        "no representation",
        "serves an unknown arm",
        "serves what cannot serve",
        "serves a control of a blend",
        "unknown member",
        "itself",
        "blend of a blend",
        "one member",
        "one member twice",
        "members of a neural arm",
        "boosting of a neural arm",
        "codes of a blend",
        "a similarity twice",
        "one leaf",
    ],
)
def test_a_preset_that_could_never_work_is_refused_when_it_is_read(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_preset(written(tmp_path, text))


def test_a_dump_holds_only_the_fields_of_an_arms_kind(tmp_path: Path) -> None:
    arms = load_preset(written(tmp_path, BLENDED)).arms
    held = {name: set(arm.model_dump()) & {"of", "boosting"} for name, arm in arms.items()}
    assert held == {"id": set(), "trees": {"boosting"}, "mix": {"of"}}


def test_on_a_catalogue_without_codes_a_blend_of_codes_is_dropped_and_others_stay(tmp_path: Path) -> None:
    coded = '[arms.codes]\nrepresentations = ["id", "sid"]\n' + MORE.replace('"id"', '"codes"')
    usable = arms_without_codes(load_preset(written(tmp_path, BLENDED + coded)))
    assert list(usable.arms) == ["id", "trees", "mix"]


def test_reading_a_preset_needs_no_torch() -> None:
    code = "import sys, ranking.pipeline.presets as presets; presets.load_preset('rqkmeans'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_arm_that_names_statistics_of_codes_needs_codes_and_one_that_could_read_them_does_not(
    tmp_path: Path,
) -> None:
    text = BLENDED + '[arms.counts]\nkind = "gbdt"\nfeatures = ["code_stats_*", "history_*"]\n'
    shared = text.replace("[ranker]\n", '[ranker]\nfeatures = ["user_code_stats_*", "history_*"]\n')
    usable = arms_without_codes(load_preset(written(tmp_path, shared)))
    assert list(usable.arms) == ["id", "trees", "mix"]
    assert usable.ranker.features == ("history_*",)


def test_an_arm_that_only_removes_features_starts_from_those_of_the_ranker() -> None:
    schema = FeatureSchema(
        (*code_features((1,), conversions=False).features, ExtraFeature("history__age_2_days", "gap"))
    )
    codes = tuple(name for name in schema.names if name.startswith("code_stats_"))
    arm = ArmSpec(representations=("id",), features=("!*code_*",))
    assert arm.schema_of(schema, None).names == ("history__age_2_days",)
    assert arm.schema_of(schema, ()).names == ()
    assert ArmSpec(representations=("id",)).schema_of(schema, ("code_stats_*",)).names == codes
    without_rates = ArmSpec(representations=("id",), features=("!*_rate_*",))
    assert without_rates.schema_of(schema, ("code_stats_*",)).names == tuple(
        name for name in codes if "_rate_" not in name
    )
    own = ArmSpec(representations=("id",), features=("history_*",))
    assert own.schema_of(schema, ("code_stats_*",)).names == ("history__age_2_days",)


def test_an_arm_dumped_by_an_earlier_release_is_still_valid() -> None:
    dumped = ArmSpec(representations=("id",)).model_dump(mode="json")
    assert "features" not in dumped
    assert ArmSpec.model_validate(dumped).model_dump(mode="json") == dumped


@pytest.mark.parametrize("name", preset_names())
def test_baselines_of_shipped_presets_read_no_statistics_of_codes(name: str) -> None:
    schema, preset = code_features((1, 2), conversions=True), load_preset(name)
    reading = {arm for arm, spec in preset.arms.items() if spec.schema_of(schema, preset.ranker.features)}
    assert not reading & {"id", "content", "id_content", "gbdt"}
    assert {"id_codes", "shuffled_codes", "content_codes"} & set(preset.arms) <= reading
