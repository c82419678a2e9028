"""Blends: the weighted mean of the logits of other arms, with weights chosen on validation rows.

The weights are the same for all rows, or, of two arms, depend on the candidate's counts (:mod:`ranking.training.count_gate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ranking.data.dataset import Dataset
from ranking.data.schema import FeatureSchema
from ranking.evaluation.metrics import auc
from ranking.evaluation.slices import prior_interactions
from ranking.training.arm_spec import ArmSpec
from ranking.training.arms import ArmDetails, ArmResult, TrainingContext
from ranking.training.blend_ranker import KIND, BlendConfig, save_blend
from ranking.training.count_gate import CountGate, gate_features, shuffled
from ranking.training.liveness import PartLiveness, gate_by_count
from ranking.training.load_ranker import load_trained
from ranking.training.mixing import best_weights, logits, probabilities
from ranking.training.predictions import read_predictions
from sidkit.core.arrays import Doubles, Ints
from sidkit.core.progress import SILENT, Progress


def blend_arm(
    arm: str,
    seed: int,
    spec: ArmSpec,
    validation: Dataset,
    test: Dataset,
    members: Mapping[str, Path],
    progress: Progress = SILENT,
) -> ArmResult:
    """Blend the saved predictions of trained arms, as :func:`ranking.training.arms.train_arm` trains an arm.

    Parameters
    ----------
    arm, seed : str, int
        Name and seed of the blend.
    spec : ArmSpec
        The blend.
    validation, test : Dataset
        The rows of the predictions; the labels of the first choose the weights.
    members : mapping
        Arm -> predictions of the same seed, written by :func:`ranking.training.predictions.write_predictions`.
    progress : Progress
        Receives the weights as a remark.
    """
    names = sorted(members)  # the order in a preset must not matter
    label = validation.rows.label
    of_validation, of_test = (
        np.stack([logits(read_predictions(members[name], part)) for name in names]) for part in ("validation", "test")
    )
    weights = best_weights(label, of_validation)
    gate, liveness = None, None
    if spec.by_counts:
        features = [gate_features(each) for each in (validation, test)]
        if spec.shuffled_counts:
            features = [shuffled(each, seed) for each in features]
        users = validation.rows.user_ids
        gate = CountGate.fit(label, features[0], of_validation, users, float(weights[0]))
        share = gate.shares(features[0])
        constant = weights @ of_validation
        weights = np.array([share.mean(), 1 - share.mean()])
        blended = probabilities(gate.blended(features[0], of_validation))
        test_blended = probabilities(gate.blended(features[1], of_test))
        liveness = (_liveness(label, share, blended, constant, prior_interactions(validation)),)
    else:
        blended, test_blended = probabilities(weights @ of_validation), probabilities(weights @ of_test)
    reached = auc(label, blended)
    shares = dict(zip(names, weights.tolist(), strict=True))
    listed = " + ".join(f"{weight:.1f} {name}" for name, weight in shares.items())
    progress.remark(f"{arm} seed {seed}: {listed}{' by counts' if gate else ''}, validation AUC {reached:.4f}")
    details = ArmDetails(weights=shares, gate=gate.as_json() if gate is not None else None)
    return ArmResult(reached, blended, test_blended, None, details, liveness=liveness)


def _liveness(
    label: npt.NDArray[np.int8], share: Doubles, blended: Doubles, constant: Doubles, counts: Ints
) -> PartLiveness:
    """Validation AUC of weights by counts, and of the constant blend in their place."""
    reached, off = auc(label, blended), auc(label, constant)
    by_count = gate_by_count(share, counts)
    return PartLiveness(
        "weights", "weights", "weights", auc=reached, auc_off=(off,), delta_auc=(off - reached,), by_count=by_count
    )


def save_blend_arm(
    context: TrainingContext, arm: str, seed: int, name: str, result: ArmResult, members: Mapping[str, str]
) -> ArmResult:
    """Save a blend as a ranker artefact that can serve.

    Parameters
    ----------
    context : TrainingContext
        The data of the run, with the folder of its artefacts.
    arm, seed, name : str, int, str
        Name and seed of the blend, and name of its artefact.
    result : ArmResult
        The blend, from :func:`blend_arm`.
    members : mapping
        Arm -> name of its artefact.

    Returns
    -------
    ArmResult
        The same with the name of the artefact.
    """
    assert context.rankers is not None
    assert result.details.weights is not None
    folders = {member: context.rankers / ranker for member, ranker in members.items()}
    configs = [load_trained(folder).config for folder in folders.values()]
    read = {feature for config in configs for feature in config.schema.names}
    schema = FeatureSchema(tuple(each for each in context.train.schema.features if each.name in read))
    serving = context.serving.of_vectors(configs[0].vectors)
    stated = {
        **vars(serving),
        "schema": schema,
        "features": {feature: kind for config in configs for feature, kind in config.features.items()},
    }
    config = BlendConfig(arm=arm, rate=context.rate, weights=result.details.weights, gate=result.details.gate, **stated)
    folder = context.rankers / name
    describe = {"kind": KIND, "name": name, "seed": seed, "members": members, **context.trained_on.as_json()}
    save_blend(folder, describe, config, folders, result.details.as_json())
    return replace(result, ranker=name)
