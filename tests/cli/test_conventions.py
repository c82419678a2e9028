"""What people expect of a command line: version, help, quiet, verbose, completion, JSON, and tables at 80 columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from helpers.builders import FinishedJob
from helpers.commands import ask, ask_well
from sidkit import __version__
from sidkit.cli.app import build_app
from sidkit.cli.tables import table


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


ALL = list(commands(get_command(build_app())))


def test_the_version_is_printed() -> None:
    assert ask_well("--version").out == f"sidkit {__version__}\n"


@pytest.mark.parametrize("path", [path for path, _ in ALL], ids=" ".join)
def test_every_command_has_help_that_fits_in_80_columns(path: tuple[str, ...]) -> None:
    short, long = ask_well(*path, "-h"), ask_well(*path, "--help")
    assert short.out == long.out and "-q, --quiet" in short.out and "-v, --verbose" in short.out
    assert max(map(len, short.out.splitlines())) <= 80
    assert "..." not in short.out.partition("Commands:")[2], "a first sentence is too long for the list of commands"


def test_every_option_explains_itself_and_brackets_are_shown() -> None:
    for path, command in ALL:
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{' '.join(path)}: {parameter.name}"
    assert "synthetic[:strong|weak|none|clustered]" in "".join(ask_well("init", "-h").out.split())


@pytest.mark.parametrize("path", [("ranker", "list"), ("codebooks", "list"), ("doctor",)], ids=" ".join)
def test_lists_have_json(path: tuple[str, ...], finished: FinishedJob) -> None:
    answer = ask_well(*path, "--repo", finished.repo.path, "--json")
    assert answer.err == "" and json.loads(answer.out) is not None


def test_names_can_be_copied_from_a_list(finished: FinishedJob) -> None:
    shown = ask_well("ranker", "list", "--repo", finished.repo.path).out
    records = json.loads(ask_well("ranker", "list", "--repo", finished.repo.path, "--json").out)
    assert [line.split()[0] for line in shown.splitlines()[1:]] == [record["name"] for record in records]
    assert max(map(len, shown.splitlines())) <= 80
    one = json.loads(ask_well("ranker", "show", records[0]["name"], "--repo", finished.repo.path, "--json").out)
    assert one["codebook"] == records[0]["codebook"] and Path(one["folder"]).is_dir()
    missing = ask("ranker", "show", "none", "--repo", finished.repo.path)
    assert missing.code == 1 and "none" in missing.err
    similar = ask_well("codebooks", "similar", "i1", "--repo", finished.repo.path, "--most", 3).out
    assert len(similar.splitlines()) == 3


def test_quiet_prints_results_only(tmp_path: Path) -> None:
    assert ask_well("data", "synthetic", tmp_path / "a", "--impressions", 3_000, "-q").out == ""
    assert ask_well("data", "check", tmp_path / "a").out != ""
    assert ask_well("-q", "init", tmp_path / "repo", "--data", tmp_path / "a").out == ""
    assert ask_well("data", "ingest", "--repo", tmp_path / "repo", "-q").out == ""


def test_verbose_prints_time_and_the_traceback_of_an_error(tmp_path: Path) -> None:
    plain, verbose = ask("doctor", "--repo", tmp_path), ask("doctor", "--repo", tmp_path, "-v")
    assert plain.code == verbose.code == 1
    assert "Traceback" not in plain.err and "took" not in plain.err
    assert "Traceback" in verbose.err and "took" in verbose.err
    assert verbose.err.splitlines()[-1] == plain.err.splitlines()[-1]


def test_completion_knows_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SIDKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "sidkit co")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert ask().out.split() == ["codebooks"]


def test_a_table_is_as_wide_as_its_values() -> None:
    shown = table(("NAME", "KIND", "ROWS"), [["a", "x", "1"], ["a long name", "", "12"]], left=("KIND",))
    assert shown.splitlines() == ["NAME         KIND  ROWS", "a            x        1", "a long name          12"]
