"""Tables at 80 columns: names are whole and every line fits."""

from __future__ import annotations

import io

from rich.console import Console

from helpers.builders import FinishedJob
from ranking.experiments.comparison.arms import load_arms
from sidkit.cli.run_report import print_report
from sidkit.cli.tables import Rows, print_table
from sidkit.core.names import LONGEST

HEAD = ("arm", "slice", "rows", "AUC", "GAUC by request", "log-loss")
CELLS = [["all", "1,234,567", "0.7123", "0.7000", "0.4321"], ["cold", "12,345", "-", "0.6000", "0.3210"]]


def table(name: str, width: int = 80) -> list[str]:
    out = io.StringIO()
    print_table(Console(file=out, width=width), "[title]", HEAD, [Rows(name, CELLS)], left=("slice",))
    return out.getvalue().splitlines()[1:]


def test_the_longest_name_of_an_arm_is_whole_and_the_line_fits() -> None:
    longest = max(load_arms(["all"]), key=len)
    for name in (longest, "a" * LONGEST):
        printed = table(name)
        assert any(name in line for line in printed)
        assert max(map(len, printed)) <= 80
        assert all(any(value in line for line in printed) for value in ("1,234,567", "0.7123", "0.3210"))


def test_a_short_name_stands_in_front_of_each_row() -> None:
    title, head, first, second = table("id")
    assert title == "[title]"
    assert head.split() == ["arm", "slice", "rows", "AUC", "GAUC", "by", "request", "log-loss"]
    assert first.split() == ["id", *CELLS[0]]
    assert second.split() == ["id", *CELLS[1]]


def test_the_report_of_a_run_is_readable_at_80_columns(finished: FinishedJob) -> None:
    out = io.StringIO()
    print_report(Console(file=out, width=80), finished.result)
    text = out.getvalue()
    tables, said = text.split("\ncodebook ", 1)
    lines = [line for line in tables.splitlines() if not line.startswith("no verdict on")]
    assert max(map(len, lines)) <= 80 + 4, "only the title may be longer, by the name of the data"
    for arm in finished.result.evaluation.arms:
        assert sum(line.split()[:1] == [arm] for line in tables.splitlines()) >= 2, "one row per arm and slice"
    flat = " ".join(said.split())
    for sentence in finished.result.conclusions:
        assert sentence in flat
    assert text.splitlines()[-1] == f"report: {finished.result.report}"
    assert "seconds" not in text, "the stages were listed while they ran"
