"""Tables of ``codebook_windows.py``: ranks of the shares by the rule, and differences of every variant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from sidkit.core.arrays import Doubles

Results = Mapping[str, Any]
FEWER, SAME = ", fewer rows", ", same rows"


def cells(results: Results) -> Iterator[tuple[tuple[str, str, str], Mapping[str, Any]]]:
    """(data, preset, arm) and its variants."""
    for data, facts in results.items():
        for preset, arms in facts["presets"].items():
            for arm, by in arms.items():
                yield (data, preset, arm), by["variants"]


def share_table(results: Results, family: str, name: str = "cold") -> pd.DataFrame:
    """AUC on a slice, a row per cell and a column per share; ``family`` is the suffix of the variants.

    Presets with the same figures count once: those of the papers share their encoder, and these arms read no codes.
    """
    rows = {}
    for cell, by in cells(results):
        of_family = {
            variant.removesuffix(family).removeprefix("share "): one["auc"].get(name)
            for variant, one in by.items()
            if variant.startswith("share ") and variant.partition(",")[1] + variant.partition(",")[2] == family
        }
        if of_family and None not in of_family.values():
            rows[cell] = of_family
    table = pd.DataFrame.from_dict(rows, orient="index").astype(float)
    if table.empty:
        return table
    of_cell = table.assign(data=[data for data, _, _ in rows], arm=[arm for _, _, arm in rows])
    return table[~of_cell.duplicated().to_numpy()]


def mean_ranks(table: pd.DataFrame) -> pd.Series:
    """Mean rank of each share over the cells; 1 is the highest AUC."""
    return table.rank(axis=1, ascending=False).mean()


def friedman(table: pd.DataFrame) -> float:
    """Friedman's test: the probability of ranks that differ as much if all shares were alike.

    By 20,000 random permutations of the ranks within cells; cells of the same data depend on each other, so that the
    probability is rather too small.
    """
    ranks = table.rank(axis=1).to_numpy()
    spread = float(np.var(ranks.mean(axis=0)))
    shuffled = np.random.default_rng(0).permuted(np.repeat(ranks[None], 20_000, axis=0), axis=2)
    drawn: Doubles = np.var(shuffled.mean(axis=1), axis=1)
    return float((drawn >= spread - 1e-12).mean())


def print_ranks(results: Results) -> None:
    """The choice by the rule, and what each family of training rows says alone."""
    counted = {family: share_table(results, family) for family in ("", FEWER)}
    tables = {
        "rule: both families": pd.concat(counted.values()),
        "same number of rows": counted[""],
        "fewer rows": counted[FEWER],
        "same rows (explains)": share_table(results, SAME),
        "all rows, both families": pd.concat([share_table(results, family, "all") for family in ("", FEWER)]),
    }
    shares = list(tables["rule: both families"].columns)
    print(f"| ranked by AUC on cold rows | cells | {' | '.join(shares)} | p |\n|" + " --- |" * (3 + len(shares)))
    for name, table in tables.items():
        if table.empty:
            continue
        ranks = mean_ranks(table)
        print(f"| {name} | {len(table)} | {' | '.join(f'{ranks[s]:.2f}' for s in shares)} | {friedman(table):.2f} |")
    for family, title in (("", "same number"), (FEWER, "fewer rows"), (SAME, "same rows")):
        table = share_table(results, family)
        against = table.sub(table["0.3"], axis=0).groupby(level=0).mean()
        print(f"\n{title}: mean difference of cold-row AUC to share 0.3, per data\n{against.round(4).to_string()}")


def print_differences(results: Results, preset: str = "smile") -> None:
    """Markdown tables per arm and slice: the difference of each variant to its baseline, a column per data set."""
    found = {(data, arm): by for (data, of, arm), by in cells(results) if of == preset}
    for arm in dict.fromkeys(arm for _, arm in found):
        of_arm = {data: by for (data, each), by in found.items() if each == arm}
        variants = dict.fromkeys(variant for by in of_arm.values() for variant in by)
        for name in ("all", "cold"):
            print(f"\n{arm}, {name}\n\n| variant | {' | '.join(of_arm)} |\n|" + " --- |" * (1 + len(of_arm)))
            for variant in variants:
                shown = [_cell(by.get(variant), name) for by in of_arm.values()]
                print(f"| {variant} | {' | '.join(shown)} |")


def _cell(one: Mapping[str, Any] | None, name: str) -> str:
    if one is None or one["auc"].get(name) is None:
        return "-"
    auc = f"{one['auc'][name]:.4f}".lstrip("0")
    return f"{auc} {difference(one['difference'].get(name))}".strip()


def difference(one: Mapping[str, Any] | None) -> str:
    """A difference and its interval, bold if it excludes 0."""
    if one is None:
        return ""
    numbers = [one[name] for name in ("value", "low", "high")]
    texts = ["-" if number is None else f"{number:+.4f}".replace("0.", ".", 1) for number in numbers]
    text = f"{texts[0]} [{texts[1]}, {texts[2]}]"
    excludes = None not in numbers and (numbers[1] > 0 or numbers[2] < 0)
    return f"**{text}**" if excludes else text


def print_results(results: Results) -> None:
    """All tables."""
    print_differences(results)
    print()
    print_ranks(results)
