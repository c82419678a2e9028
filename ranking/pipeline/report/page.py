"""Self-contained HTML report of a run: one file, no network access."""

from __future__ import annotations

import shlex
from pathlib import Path

from ranking.data.rows_used import rows_summary
from ranking.pipeline.evaluation import COMPARED, ArmDifference
from ranking.pipeline.report.plots import arm_charts, forest
from ranking.pipeline.results import RunResult
from semantic_ids.report import passages
from semantic_ids.report.facts import Facts, collect_facts
from semantic_ids.report.figures import figures
from semantic_ids.report.page import tree_data
from sidkit.core.clock import iso
from sidkit.core.files import written_beside
from sidkit.core.redact import redacted
from sidkit.reports import render_page

_SCRIPTS = ("colours.js", "tree.js")
_FEATURES = 15
"""Maximum number of features per arm in the table of importance."""
_TREE_ITEMS = 5_000
"""Maximum number of items embedded in the code tree; `sidkit codebooks report` embeds more."""


def write_report(result: RunResult) -> Path:
    """Write the report of a run to ``result.report``; an existing file is replaced.

    Raises
    ------
    ArtifactError
        When files of the codebook are missing or modified.
    """
    page = render(result, collect_facts(result.repo, result.codebook.name))
    with written_beside(result.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return result.report


def render(result: RunResult, facts: Facts) -> str:
    """Return the page as text."""
    evaluation = result.evaluation
    data = {**tree_data(facts, _TREE_ITEMS), "map": {"id": []}}
    first_pairs = [(question.arm, question.baseline) for question in result.questions]
    pairs: dict[tuple[str, str], list[ArmDifference]] = {}
    for each in evaluation.differences:
        pairs.setdefault((each.arm, each.baseline), []).append(each)
    first = [each for pair in first_pairs for each in pairs.get(pair, [])]
    others = [each for pair, listed in pairs.items() if pair not in first_pairs for each in listed]
    content = {
        "preset": result.folder.name,
        "source": redacted(result.data),
        "summary": "; ".join(
            filter(
                None, (f"features as of {iso(result.as_of_us)}, {rows_summary(result.parts)}", result.window.sentence)
            )
        ),
        "conclusions": result.conclusions,
        "warnings": result.warnings,
        "scores": result.scores,
        "world": evaluation.oracle is not None,
        "charts": arm_charts(evaluation, COMPARED),
        "reasons": {name: reason for name, reason in evaluation.reasons.items() if name in COMPARED},
        "arms": _rows_of_arms(result),
        "gauc_by": evaluation.gauc_by,
        "forests": [forest("What codes gain", first), forest("All other differences", others)],
        "codebook": result.codebook.name,
        "codebook_summary": passages.summary(facts),
        "tiles": passages.tiles(facts),
        "figures": figures(facts),
        "tree_note": passages.tree_note(facts, len(data["tree"]["items"]["id"])),
        "importance": _rows_of_importance(result),
        "stages": result.stages,
        "seconds": sum(stage.seconds for stage in result.stages),
        "memory": f"{result.peak_rss_mb:,.0f} MB",
        "steps": _steps(result),
    }
    return render_page(__package__, styles=["run.css"], scripts=_SCRIPTS, data=data, content=content)


def _rows_of_arms(result: RunResult) -> list[list[str]]:
    """Return the cells of the table of arms: arm, slice, rows, AUC, GAUC, log-loss and calibration."""
    evaluation = result.evaluation
    rows = []
    for arm, slices in evaluation.arms.items():
        for name, metrics in slices.items():
            values = (metrics.auc, metrics.shown_gauc, metrics.logloss, metrics.calibration)
            numbers = ["–" if value is None else f"{value:.4f}" for value in values]
            rows.append([arm, name, f"{evaluation.rows[name].rows:,}", *numbers])
    return rows


def _rows_of_importance(result: RunResult) -> list[tuple[str, str, list[str]]]:
    """Return the arm, the feature, and the drops on all and on cold rows, of the features with the largest drops."""
    measured = result.importance
    rows = []
    for arm, listed in measured.groupby("arm", sort=False):
        wide = listed.pivot(index="feature", columns="slice", values="drop")
        for feature in wide.sort_values("all", ascending=False).index[:_FEATURES]:
            drops = [wide.loc[feature].get(name) for name in ("all", "cold")]
            rows.append((str(arm), str(feature), ["–" if drop is None else f"{drop:+.4f}" for drop in drops]))
    return rows


def _steps(result: RunResult) -> list[tuple[str, str]]:
    """Return what to do next, each with its command."""
    repo, data = shlex.quote(str(result.repo.path)), shlex.quote(redacted(result.data))
    steps = [
        ("Read the codebook's own report", f"sidkit codebooks report {result.codebook.name} --repo {repo}"),
        ("Compare the arms of the papers", f"sidkit ranker compare --data {data} --repo {repo}"),
        ("Measure what leaked features would have promised", f"sidkit leakage --repo {repo} --preset {result.preset}"),
    ]
    if result.ranker is not None:
        steps.insert(0, ("Score candidates", f"sidkit score --repo {repo} --user USER --items ITEM,ITEM"))
    return steps
