"""A small part of `make fuzz`: fixed cases of the kinds that need no copy of a repo; no traceback and no wrong answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import try_arguments, try_rows, try_settings, try_tables
from fuzz.outcome import CLEAR, RIGHT, Verdict
from fuzz.place import Place
from fuzz.processes import without_forks
from fuzz.source_files import store_parquet
from fuzz.source_rows import draw_rows
from helpers.builders import FinishedJob

SEED = 0


def tried(case: Callable[[random.Random, Place], Verdict], kind: str, count: int, place: Place) -> list[Verdict]:
    """So many cases of a kind, in this process."""
    found = []
    with without_forks():
        for index in range(count):
            place.restore(repo=False)
            verdict = case(random.Random(f"{SEED}/{kind}/{index}"), place)
            assert not verdict.bad, f"{kind} {index}: {verdict.did}\n" + "\n".join(verdict.why)
            found.append(verdict)
    return found


def both(found: list[Verdict]) -> bool:
    """Whether some cases were accepted and some refused: a generator that makes one kind only proves little."""
    return {verdict.verdict for verdict in found} == {RIGHT, CLEAR}


@pytest.fixture
def bare(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.make(finished=False)
    return place


@pytest.fixture(scope="module")
def reading(finished: FinishedJob, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place whose commands read the finished job's repo."""
    place = Place(tmp_path_factory.mktemp("fuzz"), finished.repo.path)
    place.make(finished=False)
    store_parquet(random.Random(0), draw_rows(random.Random(3)), place.source, plain=True)
    with without_forks():
        place.answers = place.learn()
    return place


def test_every_row_of_a_malformed_source_is_in_the_log_rejected_or_reported(bare: Place) -> None:
    assert both(tried(try_tables.case, "tables", 8, bare))


def test_a_settings_file_is_honoured_or_refused_by_the_name_of_its_key(bare: Place) -> None:
    assert both(tried(try_settings.case, "settings", 25, bare))


@pytest.mark.own_store("offline", "values of a frame are compared with those of the kit's store")
def test_a_file_of_rows_gives_the_features_of_its_keys_or_is_refused(reading: Place) -> None:
    assert both(tried(try_rows.case, "rows", 16, reading))


def test_no_list_of_arguments_ends_in_a_traceback_or_writes_elsewhere(reading: Place) -> None:
    assert both(tried(try_arguments.case, "arguments", 30, reading))
