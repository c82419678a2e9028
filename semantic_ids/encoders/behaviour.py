"""Behaviour encoder: project content with a contrastive loss, so that co-clicked items lie close (SaviorRec)."""

from __future__ import annotations

from dataclasses import fields
from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.encoders.base import Encoder, Items, usable_pairs
from semantic_ids.encoders.content import ContentEncoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.given import Pairs
from sidkit.core.arrays import Floats
from sidkit.core.artifact import tensors_under
from sidkit.core.errors import FitError

_ROWS_AT_ONCE = 65_536


class BehaviourEncoder(Encoder):
    """SaviorRec's encoder (arXiv 2508.01375, figure 2) over vectors of a frozen backbone.

    Content is standardised, imputed and rotated by :class:`ContentEncoder`; the projection has no other input, so a
    missing modality is seen only through its imputed values. One projection, shared by trigger and target, adds a linear
    and a two-layer term to the leading principal components of content. Both terms are zero-initialised, so training
    starts from content. The loss is InfoNCE with in-batch negatives and logQ correction; known positives are excluded
    from the negatives, and no item occurs twice in a batch. The output has unit length. The paper does not give width,
    temperature or batch size; the defaults are ours.

    If the pairs carry a backtest split, it sets the number of steps: the encoder trains on the earlier pairs and is
    evaluated on the later ones, then trains on all pairs for the best number of steps. Otherwise the pairs of some items
    are held out and the best checkpoint is used. If no checkpoint ranks the evaluation pairs better than content by
    three standard errors, the projection stays at its initial value.

    Items without pairs go through the same function as all others, so the vectors do not encode coldness.

    Parameters
    ----------
    dim : int
        Dimension of the projection, and of the output if ``content_weight`` is 0.
    hidden : int
        Width of the hidden layer.
    input_dim : int
        Number of principal components of content used as input; smaller if the content has fewer.
    ridge : float
        Passed to :class:`ContentEncoder`.
    content_weight : float
        Norm of the first ``dim`` components of content that are concatenated with the unit-norm projection. The
        projection then learns what content lacks, and items without clicks keep their content neighbours. 0 leaves
        content out; otherwise the output has ``2 * dim`` dimensions.
    temperature : float
        Temperature of the InfoNCE loss.
    log_q : float
        Weight of the logQ correction; 0 disables it. Each pass samples all targets equally often, so cosines then
        reflect popularity to this power of the click count.
    batch : int
        Maximum pairs per step.
    steps : int
        Maximum number of steps; the evaluation pairs are ranked every 25 steps.
    patience : int
        Number of evaluations without improvement after which training stops.
    held_out : float
        Without a backtest split, the share of items whose pairs are held out for early stopping. All pairs of an item
        are held out together, because a single pair can be inferred from the pairs around it. They come from the same
        window as the training pairs.
    learning_rate, weight_decay : float
        Of AdamW; the decay is towards content.
    seed : int
        Random seed.
    threads : int
        Torch threads during ``fit``; not saved in codebooks. A different number can change the last bits.

    Attributes
    ----------
    modalities_ : tuple of str
        The modalities of the fit, in alphabetical order.
    content_ : ContentEncoder
        The fitted encoder of the input.
    curve_ : tuple of float
        Mean log rank of the evaluation pairs at each evaluation, starting with that of content.
    output_dim : int
        Width of the vectors.
    n_features_in_ : int
        Number of columns of all modalities.

    References
    ----------
    SaviorRec (arXiv 2508.01375), figure 2; van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive
    Coding (arXiv 1807.03748), for InfoNCE; Yi et al., RecSys 2019, for the logQ correction.

    Examples
    --------
    Pairs are row numbers of a trigger and a target; :func:`semantic_ids.pairs.mining.mine_pairs` mines them from clicks.

    >>> import numpy as np
    >>> from semantic_ids import BehaviourEncoder
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(200, 16)).astype("float32")
    >>> trigger = rng.integers(0, 200, 1000)
    >>> pairs = np.stack([trigger, (trigger + rng.integers(1, 200, 1000)) % 200], axis=1)
    >>> vectors = BehaviourEncoder(dim=8, hidden=16, steps=25).fit_transform(x, pairs)
    >>> vectors.shape, bool(np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4))
    ((200, 8), True)
    """

    name = "behaviour"
    needs_pairs = True
    modules = ("torch", "scipy")
    mass_clicks: float = 0.0
    """Clicks from which an item's pairs have full weight; 0: all pairs weigh the same."""
    shuffled_mass: bool = False
    """Control: weights of pairs by the clicks of random items."""

    def __init__(
        self,
        dim: int = 64,
        hidden: int = 256,
        input_dim: int = 256,
        ridge: float = 0.1,
        content_weight: float = 0.0,
        temperature: float = 0.07,
        log_q: float = 1.0,
        batch: int = 1024,
        steps: int = 3000,
        patience: int = 8,
        held_out: float = 0.1,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.1,
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        self.dim = dim
        self.hidden = hidden
        self.input_dim = input_dim
        self.ridge = ridge
        self.content_weight = content_weight
        self.temperature = temperature
        self.log_q = log_q
        self.batch = batch
        self.steps = steps
        self.patience = patience
        self.held_out = held_out
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.seed = seed
        self.threads = threads

    def fit(self, items: Items, pairs: Pairs = None) -> Self:
        """Fit on ``items`` and on pairs of them.

        ``curve_`` is the mean log rank of the evaluation pairs at each evaluation, starting with that of content.

        Raises
        ------
        FitError
            When there are no or too few pairs, an argument is out of range, or the content cannot be used.
        """
        self._check_arguments()
        items = ItemVectors.of(items)
        pairs = usable_pairs(self.name, items, pairs)
        content = ContentEncoder(self.input_dim, self.ridge).fit(items)
        from semantic_ids.encoders.behaviour_training import BehaviourTraining, train

        training = BehaviourTraining(**{field.name: getattr(self, field.name) for field in fields(BehaviourTraining)})
        learned = train(training, content.encode(items), pairs)
        self.content_ = content
        self.modalities_ = content.modalities_
        self.straight_: Floats = learned.straight
        self.first_: Floats = learned.first
        self.bias_: Floats = learned.bias
        self.second_: Floats = learned.second
        self.curve_ = learned.curve
        return self

    def encode(self, items: Items) -> Floats:
        """Vectors ``float32 [items, dim]`` of length 1; zeros for an item without any modality.

        Raises
        ------
        FitError
            When it is not fitted, modalities or widths differ from those of ``fit``, or a vector is not finite.
        """
        self._refuse_unfitted()
        items = self.as_items(items)
        content = self.content_.encode(items)
        vectors = np.zeros((len(items), self.output_dim), dtype=np.float32)
        for start in range(0, len(items), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            vectors[part] = self._projected(content[part].astype(np.float64))
        vectors[~items.any_present] = 0
        return vectors

    def _projected(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Apply the projection in double precision, so that float32 rounding does not depend on the batch."""
        hidden = np.maximum(rows @ self.first_.astype(np.float64) + self.bias_, 0)
        projected = rows @ self.straight_.astype(np.float64) + hidden @ self.second_.astype(np.float64)
        if not self.content_weight:
            return _unit(projected)
        width = min(self.dim, rows.shape[1])
        content = np.zeros((len(rows), self.dim))
        content[:, :width] = rows[:, :width]
        both = np.hstack([self.content_weight * _unit(content), _unit(projected)])
        return np.asarray(both / np.hypot(1, self.content_weight))

    def _check_arguments(self) -> None:
        for name in ("dim", "hidden", "input_dim", "steps", "patience", "threads"):
            if getattr(self, name) < 1:
                raise FitError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch < 2:
            raise FitError(f"batch must be at least 2, so that a pair has an in-batch negative, got {self.batch}")
        if not 0 <= self.mass_clicks < np.inf:
            raise FitError(
                f"mass_clicks must be a finite number of at least 0, got {self.mass_clicks}; 0 weighs all pairs alike"
            )
        if not 0 < self.held_out < 1:
            raise FitError(f"held_out must be above 0 and below 1, got {self.held_out}")
        if not 0 <= self.content_weight < np.inf:
            raise FitError(f"content_weight must be a finite number of at least 0, got {self.content_weight}")
        for name in ("temperature", "learning_rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise FitError(f"{name} must be a finite number above 0, got {getattr(self, name)}")

    @property
    def output_dim(self) -> int:
        """Width of the vectors."""
        return int(self.straight_.shape[1]) * (2 if self.content_weight else 1)

    @property
    def content_columns(self) -> tuple[int, int]:
        """The columns of the concatenated content, which come first; an empty range if ``content_weight`` is 0."""
        return (0, int(self.straight_.shape[1]) if self.content_weight else 0)

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        return {
            "straight": self.straight_,
            "first": self.first_,
            "bias": self.bias_,
            "second": self.second_,
            "curve": np.array(self.curve_, dtype=np.float64),
            **{f"content.{key}": value for key, value in self.content_.tensors().items()},
        }

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.straight_ = tensors["straight"].astype(np.float32)
        self.first_ = tensors["first"].astype(np.float32)
        self.bias_ = tensors["bias"].astype(np.float32)
        self.second_ = tensors["second"].astype(np.float32)
        self.curve_ = tuple(tensors["curve"].astype(np.float64).tolist())
        self.content_ = ContentEncoder(self.input_dim, self.ridge).load_tensors(tensors_under(tensors, "content."))
        self.modalities_ = self.content_.modalities_
        return self


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1))
