"""Behaviour-aware vectors: content, projected so that items which people click together lie close (SaviorRec)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.encoders.base import Encoder, usable_pairs
from semantic_ids.encoders.content import ContentEncoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.arrays import Floats
from sidkit.core.artifact import tensors_under
from sidkit.core.errors import FitError

_ROWS_AT_ONCE = 65_536


class BehaviourEncoder(Encoder):
    """SaviorRec's encoder (arXiv 2508.01375, figure 2) over vectors of a frozen backbone.

    Content is standardised, gap-filled and rotated by :class:`ContentEncoder`; the projection sees nothing else, so it
    can say of a missing modality only what filled content says. One projection, shared by trigger and target, adds a
    linear and a two-layer change to the leading axes of content; both changes start at zero, so that training starts
    from content. The loss is InfoNCE with in-batch negatives and logQ correction; known positives are no negatives, and
    no item is twice in a batch. The result has length 1. The paper leaves width, temperature and batch open; the
    defaults are ours.

    How long is learned is decided by a rehearsal, where the pairs carry one: learned is from the pairs of the window's
    beginning, judged by those of its end, as the future will judge; then all pairs are learned from for as many steps as
    were best. Without a rehearsal the pairs of some items are held out, and the best look is kept. Where no look ranks
    the judging pairs better than content by three standard errors, content stays.

    An item that is in no pair goes through the same function as all others: nothing says that it is cold.

    Parameters
    ----------
    dim : int
        Dimensions of what is learned, and of the result where no content stands beside.
    hidden : int
        Width of the hidden layer.
    input_dim : int
        Principal axes of content that the projection sees; fewer where the content has fewer.
    ridge : float
        As for :class:`ContentEncoder`.
    content_weight : float
        Length of the first ``dim`` axes of content beside what is learned, whose length is 1: the loss then teaches what
        content lacks, and items that nobody clicked yet keep their neighbours. 0 leaves it out; else the result has
        ``2 * dim`` dimensions.
    temperature : float
        By which cosines are divided.
    log_q : float
        How much of the logQ correction applies; 0 leaves it out. A pass draws each target equally often, so that cosines
        take up popularity by this power of the clicks.
    batch : int
        Pairs per step, at most.
    steps : int
        Steps at most; every 25 the judging pairs are looked at.
    patience : int
        Looks without better ranks after which training stops.
    held_out : float
        Without a rehearsal, the share of the items whose pairs decide when to stop, and are not learned from: a pair that is
        left out alone can be known from the pairs around it. They come from the same window as the others, never from later.
    learning_rate, weight_decay : float
        Of AdamW; the decay is towards content.
    seed : int
        Decides everything random.
    threads : int
        Threads of torch during ``fit``; no part of the fitted encoder. Another number can change the last bits.
    """

    name = "behaviour"
    needs_pairs = True

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

    def fit(self, items: ItemVectors, pairs: ItemPairs | None = None) -> Self:
        """Learn from pairs of rows of ``items``.

        ``curve_`` then holds the mean log rank of the judging pairs at each look, content's first.

        Raises
        ------
        FitError
            When there are no or too few pairs, an argument is out of range, or the content cannot be used.
        """
        self._check_arguments()
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

    def encode(self, items: ItemVectors) -> Floats:
        """Vectors ``float32 [items, dim]`` of length 1; zeros for an item without any modality.

        Raises
        ------
        FitError
            When it is not fitted, the modalities or their widths differ from those of ``fit``, or a vector is not finite.
        """
        self._refuse_unfitted("straight_")
        content = self.content_.encode(items)
        vectors = np.zeros((len(items), self.output_dim), dtype=np.float32)
        for start in range(0, len(items), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            vectors[part] = self._projected(content[part].astype(np.float64))
        vectors[~items.any_present] = 0
        return vectors

    def _projected(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """In double, so that the last bits of a float32 do not depend on the batch."""
        hidden = np.maximum(rows @ self.first_.astype(np.float64) + self.bias_, 0)
        moved = rows @ self.straight_.astype(np.float64) + hidden @ self.second_.astype(np.float64)
        if not self.content_weight:
            return _unit(moved)
        kept = min(self.dim, rows.shape[1])
        content = np.zeros((len(rows), self.dim))
        content[:, :kept] = rows[:, :kept]
        both = np.hstack([self.content_weight * _unit(content), _unit(moved)])
        return np.asarray(both / np.hypot(1, self.content_weight))

    def _check_arguments(self) -> None:
        for name in ("dim", "hidden", "input_dim", "steps", "patience", "threads"):
            if getattr(self, name) < 1:
                raise FitError(f"{name} is {getattr(self, name)}; at least 1 is needed")
        if self.batch < 2:
            raise FitError(f"batch is {self.batch}; at least 2 pairs are needed, or there is no negative")
        if not 0 < self.held_out < 1:
            raise FitError(f"held_out is {self.held_out}; a share above 0 and below 1 is needed")
        if not 0 <= self.content_weight < np.inf:
            raise FitError(f"content_weight is {self.content_weight}; a number of at least 0 is needed")
        for name in ("temperature", "learning_rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise FitError(f"{name} is {getattr(self, name)}; a number above 0 is needed")

    @property
    def output_dim(self) -> int:
        """Width of the vectors."""
        return int(self.straight_.shape[1]) * (2 if self.content_weight else 1)

    @property
    def content_columns(self) -> tuple[int, int]:
        """Content stands first, where it stands beside what is learned."""
        return (0, int(self.straight_.shape[1]) if self.content_weight else 0)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values; the threads are no part of what was fitted."""
        return {
            "dim": self.dim,
            "hidden": self.hidden,
            "input_dim": self.input_dim,
            "ridge": self.ridge,
            "content_weight": self.content_weight,
            "temperature": self.temperature,
            "log_q": self.log_q,
            "batch": self.batch,
            "steps": self.steps,
            "patience": self.patience,
            "held_out": self.held_out,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "seed": self.seed,
        }

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state."""
        return {
            "straight": self.straight_,
            "first": self.first_,
            "bias": self.bias_,
            "second": self.second_,
            "curve": np.array(self.curve_, dtype=np.float64),
            **{f"content.{key}": value for key, value in self.content_.tensors().items()},
        }

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Take up a fitted state."""
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
