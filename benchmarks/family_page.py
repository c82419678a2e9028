"""The tables of ``docs/results/family.md``: differences, what they would need to be told, and which parts act."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from family_systems import SYSTEMS
from gates import interval_text

from ranking.experiments.comparison.liveness import any_alive

TOLD = (0.005, 0.002)
"""Differences in AUC that should be told."""
POWER = 0.8
"""Share of samples in which a difference of this size should be told."""
ROLES = {
    "baseline": "its baseline",
    "control": "its control",
    "served": "`content_codes`",
    "same rows": "`content_codes` on the same rows",
}
_COLUMNS: Sequence[tuple[str, str]] = (
    ("baseline", "all"),
    ("baseline", "cold"),
    ("control", "cold"),
    ("served", "all"),
    ("served", "cold"),
    ("same rows", "all"),
)
LABELS = {
    "xwines_slim": "X-Wines",
    "ml_latest_small": "MovieLens",
    "uci_online_retail": "UCI",
    "synthetic_strong": "`strong`",
    "synthetic_clustered": "`clustered`",
}
"""What the page calls the data sets, in its order."""
_NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
Results = Mapping[str, Mapping[str, Any]]
"""Data set -> kind of rows -> result."""


def blocks(
    results: Results,
    gates: Results | None = None,
    planted: Results | None = None,
    attention: Results | None = None,
) -> dict[str, str]:
    """The computed parts of the page.

    ``gates`` are results of ``benchmarks/gates.py``: some systems on more data sets. ``planted`` are those on the sources of
    ``benchmarks/planted_worlds.py``, ``attention`` those of ``benchmarks/attention.py``.
    """
    differences = []
    for kind in ("validation", "test"):
        known = _labelled(results, kind)
        corrected = holm(cold_cells(known))
        for data, found in known.items():
            differences += [_heading(data, kind, found), differences_table(data, found, corrected)]
    known = _labelled(results, "validation")
    alive = {data: found for data, found in known.items() if found.get("liveness")}
    parts = [f"**{data}**, {_seeds(found)}:\n\n{alive_table(found)}" for data, found in alive.items()]
    return {
        "differences": "\n\n".join(differences),
        "acting": acting_table(alive),
        "parts": "\n\n".join(parts),
        "tries": tries_table(results),
        "anywhere": anywhere_table(results, planted or {}, attention or {}),
        "planted": planted_table(planted or {}),
        "needed": needed_table(known, _labelled(gates or {}, "validation")),
    }


def _labelled(results: Results, kind: str) -> dict[str, Any]:
    """Results on rows of a kind by the name that the page gives a data set, in the page's order."""
    known = {data: found[kind] for data, found in results.items() if kind in found}
    return {LABELS.get(data, data): known[data] for data in sorted(known, key=[*LABELS, *known].index)}


def _seeds(found: Mapping[str, Any]) -> str:
    return f"{_NUMBERS.get(found['seeds'], found['seeds'])} seeds"


def _heading(data: str, kind: str, found: Mapping[str, Any]) -> str:
    trained = " or ".join(f"{rows:,}" for rows in sorted(set(found["train_rows"].values())))
    positives = {each["positives"] for each in found["differences"] if each["slice"] == "cold"}
    cold = f"{max(positives):,} cold positives" if positives else "too few cold positives for a figure"
    return f"**{data}**, {kind} rows, {_seeds(found)}, {trained} training rows, {found['rows']:,} {kind} rows, {cold}:"


def cold_cells(known: Mapping[str, Any]) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """Differences on cold rows by data set, system and role, for Holm's correction; losses are no systems of their own."""
    return {
        (data, each["system"], each["role"]): each
        for data, found in known.items()
        for each in found["differences"]
        if each["slice"] == "cold" and each["role"] in ROLES
    }


def p_value(each: Mapping[str, Any]) -> float:
    """Two-sided p-value of a difference: by Student's t with the degrees of its interval, or else by that as a normal one."""
    from scipy.special import stdtr

    if each["value"] == 0 or math.isnan(each["high"] - each["low"]):
        return 1.0
    if each.get("rows_error") is None or each.get("trainings_error") is None:
        error, degrees = (each["high"] - each["low"]) / (2 * 1.96), math.inf
    else:
        error = math.hypot(each["rows_error"], each["trainings_error"])
        degrees = max(each["degrees"] or math.inf, 1.0)
    t = abs(each["value"]) / max(error, 1e-12)
    return math.erfc(t / math.sqrt(2)) if math.isinf(degrees) else float(2 * stdtr(degrees, -t))


def holm(cells: Mapping[Any, Mapping[str, Any]]) -> dict[Any, float]:
    """p-values of differences, corrected by Holm over all of them."""
    raw = {key: p_value(each) for key, each in cells.items()}
    corrected, least = {}, 0.0
    for place, key in enumerate(sorted(raw, key=raw.__getitem__)):
        least = max(least, min(1.0, raw[key] * (len(raw) - place)))
        corrected[key] = least
    return corrected


def positives_needed(each: Mapping[str, Any], difference: float, comparisons: int = 1) -> int:
    """Positives at which a true ``difference`` excludes 0 in a share :data:`POWER` of samples, at 5 % over ``comparisons``.

    The standard error by users and items falls with the root of the positives; trainings are taken to be so many that theirs
    is small (:func:`seeds_needed`). ``each`` is a difference with its errors and positives; an older one without errors counts
    its whole interval.
    """
    error = each.get("rows_error")
    if error is None:
        error = (each["high"] - each["low"]) / (2 * 1.96)
    return math.ceil(each["positives"] * (_quantiles(comparisons) * error / difference) ** 2)


def seeds_needed(each: Mapping[str, Any], seeds: int, difference: float, comparisons: int = 1) -> int:
    """Seeds at which trainings alone would leave a true ``difference`` to be told, as in :func:`positives_needed`."""
    return max(1, math.ceil(seeds * (_quantiles(comparisons) * each["trainings_error"] / difference) ** 2))


def _quantiles(comparisons: int) -> float:
    normal = statistics.NormalDist()
    return normal.inv_cdf(1 - 0.05 / (2 * comparisons)) + normal.inv_cdf(POWER)


def needed_table(known: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """What would be needed to tell a difference on cold rows: medians over the systems of a data set.

    ``others`` are results of ``benchmarks/gates.py``, whose differences have no role.
    """
    total = len(cold_cells(known))
    head = [f"{TOLD[0]:g}, alone", f"{TOLD[1]:g}, alone", f"{TOLD[0]:g}, of {total}", f"{TOLD[1]:g}, of {total}"]
    lines = [
        "| data | against | cold positives | standard error by rows | positives for "
        f"{' | '.join(head)} | seeds for {TOLD[0]:g} |",
        f"|{' --- |' * 9}",
    ]
    for data, found in known.items():
        for role, against in ROLES.items():
            cells = [
                each
                for (name, _, own), each in cold_cells({data: found}).items()
                if (name, own) == (data, role) and each["high"] > each["low"]
            ]
            if cells:
                lines.append(f"| {data} | {against} | {_needed(cells, found['seeds'], total)} |")
    for data, found in others.items():
        cells = [each for each in found["differences"] if each["slice"] == "cold" and each["high"] > each["low"]]
        if cells:
            lines.append(f"| {data} | pairs of `make gates` | {_needed(cells, found['seeds'], total)} |")
    return "\n".join(lines)


def _needed(cells: Sequence[Mapping[str, Any]], seeds: int, total: int) -> str:
    def median(values: Iterator[float]) -> float:
        return statistics.median(values)

    errors = median(
        each["rows_error"] if each.get("rows_error") is not None else (each["high"] - each["low"]) / 3.92
        for each in cells
    )
    shown = [f"{cells[0]['positives']:,}", f"{errors:.4f}".replace("0.", ".")]
    for comparisons in (1, total):
        for difference in TOLD:
            shown.append(f"{median(positives_needed(each, difference, comparisons) for each in cells):,.0f}")
    told = [each for each in cells if each.get("trainings_error") is not None]
    shown.append(f"{median(seeds_needed(each, seeds, TOLD[0]) for each in told):,.0f}" if told else "-")
    return " | ".join(shown)


def differences_table(data: str, found: Mapping[str, Any], corrected: Mapping[Any, float]) -> str:
    """One row per system: bold intervals exclude 0, and a star marks p below .05 after Holm on cold rows."""
    lines = [
        "| system | to its baseline, all | cold | to its control, cold | to `content_codes`, all | cold | "
        "on the same rows, all | MB | s |",
        f"|{' --- |' * 9}",
    ]
    cells = {(each["system"], each["role"], each["slice"]): each for each in found["differences"]}
    for system in dict.fromkeys(each["system"] for each in found["differences"]):
        shown = []
        for role, name in _COLUMNS:
            p = corrected.get((data, system, role)) if name == "cold" else None
            shown.append(_cell(cells.get((system, role, name)), p))
        arm = SYSTEMS[system].arm
        size = found.get("megabytes", {}).get(arm)
        shown.append("-" if size is None else f"{size:.1f}")
        lines.append(f"| {system} | {' | '.join(shown)} | {found['cpu_seconds'][arm]:.1f} |")
    return "\n".join(lines)


def losses_table(found: Mapping[str, Any]) -> str:
    """A row per system and loss that it was trained without."""
    lines = ["| system | against itself without | all | cold |", f"|{' --- |' * 4}"]
    cells = {(each["system"], each["role"], each["slice"]): each for each in found["differences"]}
    for system, role in dict.fromkeys((system, role) for system, role, _ in cells if role not in ROLES):
        loss = role.rpartition(" ")[2]
        shown = [_cell(cells.get((system, role, name)), None) for name in ("all", "cold")]
        lines.append(f"| {system} | `{loss}` | {' | '.join(shown)} |")
    return "\n".join(lines)


def acting_table(known: Mapping[str, Any]) -> str:
    """A row per system and a column per data set: whether its parts act, with the largest change that forcing one off makes."""
    lines = [f"| system | {' | '.join(known)} |", f"|{' --- |' * (len(known) + 1)}"]
    for system in SYSTEMS:
        cells = []
        for found in known.values():
            own = system_parts(system, found["liveness"].get(system, ()))
            changes = [delta for part in own for delta in part["delta_auc"]]
            largest = f", {max(changes, key=abs):+.4f}".replace("0.", ".") if changes else ""
            cells.append(_state(own) + largest if system in found["liveness"] else "-")
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tries_table(results: Results) -> str:
    """A row per system and setting of ``benchmarks/family_tries.py``: validation AUC, and what forcing a part off changes."""
    lines = [
        "| data | system | shipped: AUC | setting | seeds | AUC (SD) | parts that act | others |",
        f"|{' --- |' * 8}",
    ]
    for data in (each for each in LABELS if "tries" in results.get(each, {})):
        shipped = results[data]["validation"]["auc"]["all"]
        for system, settings in results[data]["tries"].items():
            for setting, found in settings.items():
                acting, others = (
                    "; ".join(_part(part) for part in found["parts"] if part["alive"] is alive) or "-"
                    for alive in (True, False)
                )
                cells = [LABELS[data], system, auc_text(shipped[SYSTEMS[system].arm]), setting]
                cells += [str(found["seeds"]), f"{auc_text(found['auc'])} ({auc_text(found['deviation'])})"]
                lines.append(f"| {' | '.join([*cells, acting, others])} |")
    return "\n".join(lines)


def anywhere_table(results: Results, planted: Results, attention: Results) -> str:
    """A row per system: its parts that act in any of the results, with where, and those that act in none."""
    found: dict[str, dict[str, list[str]]] = {system: {} for system in SYSTEMS}

    def note(system: str, parts: Sequence[Mapping[str, Any]], where: str) -> None:
        for part in parts:
            places = found[system].setdefault(part["name"], [])
            if part["alive"] and where not in places:
                places.append(where)

    for data in sorted(results, key=[*LABELS, *results].index):
        label = LABELS.get(data, data)
        for system, parts in results[data].get("validation", {}).get("liveness", {}).items():
            note(system, system_parts(system, parts), label)
        for system, settings in results[data].get("tries", {}).items():
            for setting, measured in settings.items():
                note(system, measured["parts"], f"{label} ({setting})")
    for data, each in planted.items():
        for system, parts in each["validation"]["liveness"].items():
            note(system, system_parts(system, parts), f"`{data}`")
    for data, each in attention.items():
        for arm, parts in each["validation"]["parts"].items():
            for system in (name for name, stated in SYSTEMS.items() if arm.startswith(f"{stated.arm}_")):
                setting = arm.removeprefix(f"{SYSTEMS[system].arm}_")
                note(system, parts, f"{LABELS.get(data, f'`{data}`')} ({setting})")
    lines = ["| system | parts that act, and where | parts that act nowhere |", f"|{' --- |' * 3}"]
    for system, parts_of in found.items():
        acting = "; ".join(f"`{name}`: {', '.join(places)}" for name, places in parts_of.items() if places)
        nowhere = ", ".join(f"`{name}`" for name, places in parts_of.items() if not places)
        if parts_of:
            lines.append(f"| {system} | {acting or '-'} | {nowhere or '-'} |")
    return "\n".join(lines)


def planted_table(planted: Results) -> str:
    """A row per system on the world that is made for it, with its shipped settings: differences, and what its part changes."""
    lines = [
        "| world | system | to its baseline | to its control | its part off | SD over seeds | acts |",
        f"|{' --- |' * 7}",
    ]
    for world, found in sorted((data, kinds["validation"]) for data, kinds in planted.items()):
        cells = {(each["system"], each["role"]): each for each in found["differences"] if each["slice"] == "all"}
        for system, parts in found["liveness"].items():
            own = system_parts(system, parts)
            shown = [_cell(cells.get((system, role)), None) for role in ("baseline", "control")]
            deviation = auc_text(own[0]["deviation"])
            lines.append(
                f"| `{world}` | {system} | {' | '.join(shown)} | {'; '.join(map(_part, own))} | {deviation} | {_state(own)} |"
            )
    return "\n".join(lines)


def auc_text(value: float) -> str:
    """An AUC or a deviation with four digits, without the zero before the point."""
    return f"{value:.4f}".removeprefix("0")


def _state(own: Sequence[Mapping[str, Any]]) -> str:
    states = {True: "yes", None: "unknown", False: "no"}
    return states[any_alive([part["alive"] for part in own])] if own else "no trained part"


def alive_table(found: Mapping[str, Any]) -> str:
    """A row per system: whether the parts that its baseline lacks act, and what forcing each of them off changes."""
    lines = ["| system | alive | parts: entropy / log n, change of the validation AUC with it off | SD over seeds |"]
    lines.append(f"|{' --- |' * 4}")
    for system, parts in found["liveness"].items():
        own = system_parts(system, parts)
        state = _state(own)
        shown = "; ".join(_part(part) for part in own) or "-"
        deviation = next((part["deviation"] for part in own if part["deviation"] is not None), None)
        lines.append(f"| {system} | {state} | {shown} | {'-' if deviation is None else f'{deviation:.4f}'} |")
    return "\n".join(lines)


def system_parts(system: str, parts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The parts that carry a system's idea: those that its baseline lacks, or else those that read what it makes."""
    own = [part for part in parts if part["own"]]
    reads = SYSTEMS[system].reads
    return own or [part for part in parts if reads and part["name"].startswith(reads)]


def _part(part: Mapping[str, Any]) -> str:
    gate = ""
    if part.get("by_count"):
        means = [each["mean"] for each in part["by_count"]]
        gate = f", mean {min(means):.2f} to {max(means):.2f} by count"
    return f"`{part['name']}` {off_text(part)}{gate}"


def off_text(part: Mapping[str, Any]) -> str:
    """The entropy of a part, if it is an attention, and what forcing it off changes."""
    off = " and ".join(f"{delta:+.4f}" for delta in part["delta_auc"]).replace("0.", ".")
    entropy = f"{part['entropy_over_log_n']:.3f}, " if part["entropy_over_log_n"] is not None else ""
    return f"{entropy}{off}"


def _cell(each: Mapping[str, Any] | None, p: float | None) -> str:
    if each is None:
        return "-"
    return interval_text(each) + (" *" if p is not None and p < 0.05 else "")
