"""The sentences that end a run: which ranker serves, what codes gain and on how many rows, and where to look next.

Pure functions of the evaluation. A difference is called a gain or a loss only if its verdict says so.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ranking.evaluation.slices import COLD_BELOW
from ranking.pipeline.evaluation import ArmDifference, RunEvaluation
from ranking.pipeline.questions import Question
from sidkit.core.intervals import LEAST_POSITIVES, LEAST_USERS, NO_EVIDENCE, ONE_SEED, too_small

_SLICES = {"cold": "on cold rows", "all": "on all rows"}
_CONTROLS = ("shuffled codes", "random codes")


@dataclass(frozen=True)
class ServingChoice:
    """The choice of the serving ranker among the arms that may serve."""

    ranker: str | None
    """None if no arm may serve."""
    arm: str | None
    validation_auc: float | None
    others: tuple[tuple[str, float], ...]
    """The other arms that may serve, each with its best validation AUC; best first."""

    @classmethod
    def of(cls, candidates: Sequence[tuple[float, str, str]]) -> ServingChoice:
        """Choose among (validation AUC, ranker, arm): the best AUC; ties go to the last name."""
        if not candidates:
            return cls(None, None, None, ())
        auc, ranker, arm = max(candidates)
        best = {other: max(score for score, _, name in candidates if name == other) for _, _, other in candidates}
        others = sorted(((name, score) for name, score in best.items() if name != arm), key=lambda pair: -pair[1])
        return cls(ranker, arm, auc, tuple(others))


@dataclass(frozen=True)
class RunFacts:
    """What the advice at the end of a run depends on, besides the evaluation."""

    repo: str
    data: str
    preset: str
    codebook: str
    seeds: int
    impressions: int | None
    """Impressions of a generated data set; None for data of the user's own."""
    has_vectors: bool = True
    """Whether the source has vectors; arms that read content or codes need them."""


def conclusions(
    evaluation: RunEvaluation, questions: Sequence[Question], choice: ServingChoice, facts: RunFacts
) -> tuple[str, ...]:
    """Return the sentences in the order in which they are shown."""
    undecided = undecided_slices(evaluation, facts) if questions else {}
    return (
        serving_sentence(choice),
        rows_sentence(evaluation),
        *_no_verdict(evaluation, questions, undecided),
        *(
            gain_sentence(evaluation, question, undecided)
            for question in questions
            if undecided.keys() != _SLICES.keys()
        ),
        *next_steps(evaluation, questions, facts),
    )


def undecided_slices(evaluation: RunEvaluation, facts: RunFacts) -> dict[str, str]:
    """Slice -> why no difference on it can have a verdict, for the slices where that is so."""
    reasons = {}
    for name in _SLICES:
        size = evaluation.rows.get(name)
        small = too_small(size.positives, size.effective_users) if size is not None else "no rows"
        if small is not None or facts.seeds == 1:
            reasons[name] = small or ONE_SEED
    return reasons


def serving_sentence(choice: ServingChoice) -> str:
    """Say which ranker serves and why."""
    if choice.ranker is None or choice.validation_auc is None:
        return "No ranker serves: the preset names no arm of this run under ranker.serve."
    reason = "the only arm that may serve"
    if choice.others:
        listed = ", ".join(f"{arm} {auc:.4f}" for arm, auc in choice.others)
        reason = f"the best validation AUC of the arms that may serve, ahead of {listed}"
    return f"{choice.ranker} serves: arm {choice.arm}, validation AUC {choice.validation_auc:.4f}, {reason}."


def rows_sentence(evaluation: RunEvaluation) -> str:
    """Say how many test rows are cold."""
    overall, cold = evaluation.rows["all"], evaluation.rows.get("cold")
    of_all = f"{overall.rows:,} test rows with {overall.positives:,} positives"
    if cold is None:
        return f"None of {of_all} is cold (item with under {COLD_BELOW} earlier interactions)."
    return (
        f"Cold rows (item with under {COLD_BELOW} earlier interactions): {cold.rows:,} with {cold.positives:,} positives, "
        f"of {of_all}."
    )


def _no_verdict(
    evaluation: RunEvaluation, questions: Sequence[Question], undecided: Mapping[str, str]
) -> Iterator[str]:
    """Say once, instead of once per baseline, where no verdict is possible and why, and what was measured there."""
    for reason in dict.fromkeys(undecided.values()):
        slices = [name for name in _SLICES if undecided.get(name) == reason and name in evaluation.rows]
        if slices:
            yield f"No verdict on codes {' or '.join(_SLICES[name] for name in slices)}: {reason}."
    measured = []
    for question in questions:
        values = [
            f"{difference.value:+.4f} {_SLICES[name]}"
            for name in undecided
            if (difference := _difference(evaluation, question, name)) is not None
        ]
        if values:
            measured.append(f"{question.over} {', '.join(values)}")
    if measured:
        yield f"Measured AUC of codes without a verdict, over {'; over '.join(measured)}."


def gain_sentence(evaluation: RunEvaluation, question: Question, undecided: Collection[str] = ()) -> str:
    """Say what codes gain over one baseline, on cold rows and over all rows, except on ``undecided`` slices."""
    clauses = []
    for name, where in _SLICES.items():
        difference = _difference(evaluation, question, name)
        if name in undecided:
            continue
        if difference is not None:
            clauses.append(_clause(difference, where))
        elif name in evaluation.rows:
            clauses.append(f"not measured {where}, which have too few {_scarce(evaluation, name)} for an AUC")
    said = "; ".join(clauses) or "not measured: no rows"
    return f"Codes over {question.over} ({question.arm} against {question.baseline}): {said}."


def next_steps(evaluation: RunEvaluation, questions: Sequence[Question], facts: RunFacts) -> Iterator[str]:
    """Yield what to do next; each step names a command or a setting."""
    steps = [
        *_more_rows(evaluation, facts),
        *_codes_without_meaning(evaluation, questions, facts),
        *_ahead(evaluation, questions, facts),
        *(_more_seeds(evaluation, facts) if questions else ()),
    ]
    compare = f"sidkit ranker compare --data {shlex.quote(facts.data)} --repo {shlex.quote(facts.repo)}"
    if not questions:
        steps.append(
            'No arm reads codes; add one, such as representations = ["id", "prefix_ngram"] under [arms.id_codes].'
            if facts.has_vectors
            else "No arm reads content or codes, since the source has no vectors; `sidkit data embed` computes them."
        )
    yield from steps or [f"Next, compare all arms of the papers on the same rows: `{compare}`."]


def _scarce(evaluation: RunEvaluation, name: str) -> str:
    size = evaluation.rows[name]
    return "positives" if size.positives <= size.rows - size.positives else "negatives"


def _clause(difference: ArmDifference, where: str) -> str:
    verdict = difference.reasoned
    bounds = "" if difference.low is None else f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    if verdict.outcome == NO_EVIDENCE:
        reason = f"the {verdict.reason}" if verdict.reason.startswith("interval") else verdict.reason
        return f"no evidence {where} ({difference.value:+.4f} AUC{bounds}): {reason}"
    kind = "gain" if verdict.outcome == "better" else "loss"
    return f"a {kind} of {abs(difference.value):.4f} AUC {where}{bounds}"


def _difference(evaluation: RunEvaluation, question: Question, name: str) -> ArmDifference | None:
    wanted = (question.arm, question.baseline, name)
    return next((each for each in evaluation.differences if (each.arm, each.baseline, each.slice) == wanted), None)


def _outcomes(evaluation: RunEvaluation, question: Question) -> dict[str, str]:
    """Slice -> outcome, for the slices with a difference."""
    differences = {name: _difference(evaluation, question, name) for name in _SLICES}
    return {name: difference.reasoned.outcome for name, difference in differences.items() if difference is not None}


def _more_rows(evaluation: RunEvaluation, facts: RunFacts) -> Iterator[str]:
    for name, rows in (("cold", "the cold rows"), ("all", "the test rows")):
        size = evaluation.rows.get(name)
        if size is None or too_small(size.positives, size.effective_users) is None:
            continue
        lacks = [
            least / max(have, 1)
            for least, have in ((LEAST_POSITIVES, size.positives), (LEAST_USERS, size.effective_users))
        ]
        times = math.ceil(10 * max(lacks)) / 10
        more = "a longer log, or a smaller split.train in sidkit.toml"
        if facts.impressions is not None:
            more = f"--impressions {math.ceil(facts.impressions * times / 10_000) * 10_000} and another --repo"
        yield (
            f"A verdict needs {LEAST_POSITIVES} positives of {LEAST_USERS} effective users, and {rows} have "
            f"{size.positives:,} of {size.effective_users:,.0f}: {times:,.1f} times as many rows would do ({more})."
        )
        return


def _codes_without_meaning(evaluation: RunEvaluation, questions: Sequence[Question], facts: RunFacts) -> Iterator[str]:
    enough = "all" not in undecided_slices(evaluation, facts)
    for question in questions:
        outcomes = _outcomes(evaluation, question)
        if question.over in _CONTROLS and enough and outcomes and "better" not in outcomes.values():
            yield (
                f"No gain over {question.over} is shown, so it is open whether the codes carry meaning: see the code tree "
                f"(`sidkit codebooks report {facts.codebook} --repo {shlex.quote(facts.repo)}`), and try codes learned "
                f"from behaviour (--preset {_other_preset(facts.preset)})."
            )
            return


def _ahead(evaluation: RunEvaluation, questions: Sequence[Question], facts: RunFacts) -> Iterator[str]:
    for question in questions:
        behind = [_SLICES[name] for name, outcome in _outcomes(evaluation, question).items() if outcome == "worse"]
        if not behind:
            continue
        where = " and ".join(behind)
        if question.over == "content":
            yield (
                f'Content is ahead of codes {where}: give an arm both, representations = ["id", "prefix_ngram", '
                f'"content"], or use --preset {_other_preset(facts.preset)}.'
            )
        elif question.over == "boosting":
            yield (
                f"Boosting is ahead of codes {where}: let the ranker read numeric features in bins (numeric_bins = 16 under "
                "[ranker.model]), or train on more rows."
            )
        elif question.over == "the blend":
            yield (
                f"The blend of arms without codes is ahead of codes {where}: name an arm with codes in its of, to see whether "
                "codes add to it."
            )


def _more_seeds(evaluation: RunEvaluation, facts: RunFacts) -> Iterator[str]:
    if facts.seeds == 1 and ONE_SEED in undecided_slices(evaluation, facts).values():
        yield "A verdict needs the variance of training: --seeds 3 trains each arm three times and reuses the first."


def _other_preset(preset: str) -> str:
    return "saviorrec" if preset == "smile" else "smile"
