"""What one process may use, and settings that say it: a limit that is reached is named, and no value is converted."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from ranking.training.spec import TrainingSpec
from semantic_ids.fitting import CodebookSpec
from sidkit.core.config import EngineSettings, NegativeSettings, Settings, SourceSettings
from sidkit.core.engine import connection, working_on
from sidkit.core.errors import ConfigError, MemoryLimitError


def test_a_memory_limit_that_is_reached_names_the_step_and_the_setting() -> None:
    engine = EngineSettings(threads=1, memory_limit="20MB")
    with (
        pytest.raises(
            MemoryLimitError, match="building the table x needs more memory.*20MB.*engine.memory_limit in sidkit.toml"
        ),
        connection(engine, None) as opened,
        working_on("building the table x"),
    ):
        opened.execute("CREATE TABLE x AS SELECT range AS a, md5(range::VARCHAR) AS b FROM range(2000000) ORDER BY b")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('[time]\nstats_cadence_seconds = "1500"', "stats_cadence_seconds"),
        ("[engine]\nchunk_rows = true", "chunk_rows"),
        ('[source]\nmax_reject_share = "0.5"', "max_reject_share"),
        ('[source]\nconversions = "true"', "conversions"),
        ("[source]\nconversions = 1", "conversions"),
    ],
)
def test_a_setting_of_another_type_is_refused_and_not_converted(text: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "sidkit.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"{name}: .*expected (a number without quotes|true or false)"):
        Settings.load(path)


def test_numbers_without_a_fraction_are_numbers_and_optional_ones_may_be_left_out() -> None:
    assert SourceSettings(max_reject_share=1).max_reject_share == 1.0
    assert TrainingSpec(max_train_rows=None).max_train_rows is None
    assert TrainingSpec(max_train_rows=7).max_train_rows == 7
    with pytest.raises(ValidationError, match="expected a number without quotes"):
        TrainingSpec(max_train_rows="7")  # type: ignore[arg-type]
    assert NegativeSettings(strategy="uniform").strategy == "uniform"
    assert CodebookSpec(sizes=(256, 16)).sizes == (256, 16)
    for sizes in (["256", "16"], [256, True]):
        with pytest.raises(ValidationError, match="expected a number without quotes"):
            CodebookSpec(sizes=sizes)  # type: ignore[arg-type]


def test_a_settings_file_of_any_size_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "sidkit.toml"
    for text in ("a" * 1_000_000, "a-" * 500_000, "password" * 100_000, "a:" * 300_000):
        path.write_text(f'unknown = "{text}"')
        with pytest.raises(ConfigError, match="unknown: Extra inputs are not permitted") as refused:
            Settings.load(path)
        assert len(str(refused.value)) < 1_000


def test_a_settings_file_that_is_nested_without_end_is_refused_however_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "sidkit.toml"
    deep = (".".join(["a"] * 3_000) + " = 1", "x = " + "[" * 400 + "]" * 400, "[" + ".".join(["a"] * 3_000) + "]")
    for text in deep:
        path.write_text(text)
        with pytest.raises(ConfigError, match="levels of nesting"):
            Settings.load(path)


def test_a_settings_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "sidkit.toml"
    path.write_text("[engine]\nthreads = 3", encoding="utf-8-sig")
    assert Settings.load(path).engine.threads == 3
