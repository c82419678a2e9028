"""The number of parameters of an arm, known before training."""

from __future__ import annotations

from ranking.data.batches import vocabulary_of
from ranking.training.arm_config import ranker_config
from ranking.training.arm_spec import ArmSpec
from ranking.training.arms import TrainingContext, served_by
from ranking.training.ranker import fit_on
from ranking.training.sizing import parameters_of


def parameters_before_training(context: TrainingContext, arm: str, spec: ArmSpec) -> int:
    """Count the parameters of a neural arm's model without training it."""
    context = context.narrowed(spec)
    served = served_by(context, context.train.schema)
    config = ranker_config(arm, spec, context.spec.model, context.train, context.rate, served)
    vocabulary = vocabulary_of(context.train)
    fitted = fit_on(context.train, config, vocabulary, context.quantizer, context.neighbours)
    return parameters_of(config, vocabulary, fitted)
