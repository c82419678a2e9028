"""Shared codes of all modalities, and private codes of each (Hi-SAM, arXiv 2602.11799)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.given import Pairs
from semantic_ids.quantizers.base import (
    CodeGroup,
    Quantizer,
    canonical_order,
    check_beam,
    checked_vectors,
    int_codes,
    numbered,
)
from semantic_ids.quantizers.kmeans import cluster
from semantic_ids.quantizers.nearest import NearestCode
from semantic_ids.quantizers.residual_kmeans import ResidualKMeans
from semantic_ids.quantizers.sizes import as_sizes, check_sizes
from semantic_ids.quantizers.unit_vectors import least_squares, of_length_one, unit_sum, with_constant
from sidkit.core.arrays import Bools, Codes, Doubles, Floats
from sidkit.core.artifact import tensors_under
from sidkit.core.errors import FitError

_STEP = 2**14  # rows encoded at once


class SharedPrivate(Quantizer):
    """Residual k-means of what the views of an item agree on, and one code per view of what is left (Hi-SAM, arXiv 2602.11799).

    A view is a range of columns, as the encoder ``whitened_views`` makes one of each modality; one of zeros is absent. With
    ``h^m`` the projection of view ``m`` to length 1 and ``s`` the sum of those an item has, again of length 1:

    - shared codes: residual k-means of ``s``, coarse to fine, with reconstruction ``s'``;
    - private codes: k-means of ``h^m - s'``, one code per view, and a further code for an absent view.

    Shared codes refine each other; private codes do not, and are no part of a prefix. The projections are trained with
    symmetric InfoNCE between the views of an item, a uniformity term, and a penalty on correlations between ``s`` and ``h^m -
    s``. The paper has these three aims; the forms are ours: its estimator of the mutual information is not known, and the
    penalty reads ``s`` before it is quantized. Vectors with one view have nothing private: they are not projected, and all
    items have private code 0.

    Parameters
    ----------
    sizes : sequence of int, optional
        Codes of the shared levels, coarse to fine. Default: three equal levels, chosen at ``fit`` from the number of rows.
    private_sizes : sequence of int, optional
        Codes of each view's private level, without that of an absent view. Default: a quarter of the last shared level.
    views : sequence of str, optional
        Names of the views, ranges of columns of equal width in this order. Default: those of the codebook's encoder
        (:meth:`name_views`), else one view of all columns.
    width : int, optional
        Width of the shared space. Default: that of the narrowest view.
    alignment, uniformity, penalty : float
        Weights of the losses.
    temperature : float
        Of InfoNCE.
    epochs, batch : int
        Passes over the rows, and rows per step.
    learning_rate : float
        Of Adam, with cosine decay.
    iterations : int
        k-means iterations per step.
    seed : int
        Random seed; the result does not depend on the row order.
    threads : int
        Threads during ``fit``. A different number can give slightly different codes.
    force : bool
        Fit even with fewer than 20 rows per code.

    Attributes
    ----------
    sizes_ : tuple of int
        Codes per level: those of the shared levels, then of each view, its absence included.
    views_ : dict
        Name of each view and its half-open range of columns.
    projections_ : list of ndarray
        ``float64 [columns, width]`` of each view.
    shared_ : ResidualKMeans
        The fitted shared levels.
    private_ : list of ndarray
        Codewords of each view, ``float32 [codes, width]``.
    decoders_ : list of ndarray
        ``float64 [width + 1, columns]`` of each view: least squares from reconstructions, and 1, to the vectors of the fit.
    n_features_in_ : int
        Width of the vectors.

    References
    ----------
    Hi-SAM (arXiv 2602.11799, KDD 2026).

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids.quantizers.shared_private import SharedPrivate
    >>> x = np.random.default_rng(0).normal(size=(400, 8)).astype("float32")
    >>> x[::5, :4] = 0  # no image
    >>> quantizer = SharedPrivate(sizes=(8, 8), private_sizes=(4, 4), views=("image", "text"), epochs=2).fit(x)
    >>> quantizer.sizes_, [group.name for group in quantizer.code_groups]
    ((8, 8, 5, 5), ['shared', 'image', 'text'])
    >>> quantizer.transform(x[:1])[0, 2]
    np.int32(4)
    """

    name = "shared_private"
    modules = ("torch",)
    _given_views: Mapping[str, tuple[int, int]] = MappingProxyType({})

    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        private_sizes: Sequence[int] | None = None,
        views: Sequence[str] | None = None,
        width: int | None = None,
        alignment: float = 1.0,
        uniformity: float = 1.0,
        penalty: float = 0.1,
        temperature: float = 0.07,
        epochs: int = 20,
        batch: int = 512,
        learning_rate: float = 1e-2,
        iterations: int = 25,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
    ) -> None:
        self.sizes = sizes
        self.private_sizes = private_sizes
        self.views = views
        self.width = width
        self.alignment = alignment
        self.uniformity = uniformity
        self.penalty = penalty
        self.temperature = temperature
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.iterations = iterations
        self.seed = seed
        self.threads = threads
        self.force = force

    def name_views(self, views: Mapping[str, tuple[int, int]]) -> None:
        """Take over the views of an encoder, unless the argument ``views`` names them."""
        self._given_views = dict(views)

    @property
    def residual_levels(self) -> int:
        """Number of shared levels; the private codes follow."""
        self._refuse_unfitted()
        return len(self.shared_.sizes_)

    @property
    def code_groups(self) -> tuple[CodeGroup, ...]:
        """``shared``, and one group of one level per view."""
        levels = self.residual_levels
        private = (CodeGroup(name, levels + at, levels + at + 1, False) for at, name in enumerate(self.views_))
        return (CodeGroup("shared", 0, levels, True), *private)

    @property
    def _argument_sizes(self) -> tuple[int, ...]:
        return self.shared_.sizes_

    def fit(self, vectors: npt.ArrayLike, pairs: Pairs = None) -> Self:
        """Train the projections, then learn the shared and the private codebooks.

        Raises
        ------
        FitError
            When the vectors are not finite or too few for the sizes, or do not divide into the views, or an argument is out of
            range.
        """
        self._check_arguments()
        rows = checked_vectors(vectors)
        self.sizes_ = self.sizes_for(rows)
        self.views_ = self._views_of(rows.shape[1])
        levels = len(self.sizes_) - len(self.views_)
        rows = rows[canonical_order(rows)]
        present = self._present(rows)
        self.projections_ = self._projections(rows, present)
        unit = self._unit(rows)
        together = unit_sum(unit)
        self.shared_ = ResidualKMeans(self.sizes_[:levels], self.iterations, self.seed, self.threads, True).fit(
            together
        )
        agreed = self.shared_.decode(self.shared_.encode(together))
        self.private_: list[Floats] = [
            self._private_codewords((unit[at] - agreed)[present[:, at]], size - 1, self.seed + at)
            for at, size in enumerate(self.sizes_[levels:])
        ]
        self.decoders_ = self._fit_decoders(rows, present)
        return self

    def _check_arguments(self) -> None:
        for argument, value in {"width": self.width or 1, "epochs": self.epochs, "batch": self.batch}.items():
            if value < 1:
                raise FitError(f"{argument} must be at least 1, got {value}")
        weights = (self.alignment, self.uniformity, self.penalty)
        if min(self.learning_rate, self.temperature) <= 0 or min(weights) < 0:
            raise FitError(
                "learning_rate and temperature must be above 0, and alignment, uniformity and penalty at least 0, got "
                f"{self.learning_rate}, {self.temperature}, {', '.join(map(str, weights))}"
            )

    def _views_of(self, columns: int) -> dict[str, tuple[int, int]]:
        if self.views is None:
            views = dict(self._given_views) or {"content": (0, columns)}
            if max(stop for _, stop in views.values()) > columns:
                raise FitError(
                    f"expected vectors of the encoder that named the views {list(views)}, got {columns} columns"
                )
            return views
        names = tuple(self.views)
        if not names or len(set(names)) < len(names) or columns % len(names):
            raise FitError(
                f"expected distinct names of views that divide {columns} columns, got {list(names)}; name one per modality in "
                "alphabetical order, as the encoder whitened_views lays them out, or leave views out"
            )
        width = columns // len(names)
        return {name: (at * width, (at + 1) * width) for at, name in enumerate(names)}

    def sizes_for(self, rows: Floats) -> tuple[int, ...]:
        """The sizes to fit on ``rows``: those of the shared levels, then of each view, its absence included."""
        shared = self.default_sizes(rows) if self.sizes is None else as_sizes(self.sizes)
        views = self._views_of(rows.shape[1])
        private = (max([1, *(size // 4 for size in shared[-1:])]),) * len(views)
        if self.private_sizes is not None:
            private = as_sizes(self.private_sizes, "private_sizes")
        if len(private) != len(views):
            raise FitError(
                f"expected private_sizes of {len(views)} views ({', '.join(views)}), got {list(private)}; give one size per "
                "view, or leave it out"
            )
        sizes = (*shared, *(size + 1 for size in private)) if shared else ()
        check_sizes(sizes, len(rows), force=self.force)
        return sizes

    def _private_codewords(self, left: Floats, size: int, seed: int) -> Floats:
        """Codewords of one view, of what its rows ``float32 [rows, width]`` have beside the shared part. With fewer rows than
        codes, the first codeword is repeated; with one view, or without rows, all are zeros.
        """
        if len(self.views_) == 1 or not len(left):
            return np.zeros((size, left.shape[1]), np.float32)
        if size == 1:
            return np.asarray(left.mean(axis=0, keepdims=True, dtype=np.float64), dtype=np.float32)
        found = cluster(np.ascontiguousarray(left), min(size, len(left)), self.iterations, seed, self.threads)
        return np.concatenate([found, np.repeat(found[:1], size - len(found), axis=0)])

    def _projections(self, rows: Floats, present: Bools) -> list[Doubles]:
        """Trained projections, for vectors as they are; the identity for one view."""
        parts = self._split(rows)
        if len(parts) == 1:
            return [np.eye(parts[0].shape[1])]
        from semantic_ids.quantizers.shared_private_training import AlignmentTraining, train_projections

        scales = [
            float(np.sqrt(np.mean(part[has].astype(np.float64) ** 2))) if has.any() else 1.0
            for part, has in zip(parts, present.T, strict=True)
        ]
        width = self.width or min(part.shape[1] for part in parts)
        arguments = {
            field.name: getattr(self, field.name) for field in fields(AlignmentTraining) if field.name != "width"
        }
        scaled = [(part / scale).astype(np.float32) for part, scale in zip(parts, scales, strict=True)]
        learned = train_projections(AlignmentTraining(width=width, **arguments), scaled, present)
        return [projection / scale for projection, scale in zip(learned, scales, strict=True)]

    def _fit_decoders(self, rows: Floats, present: Bools) -> list[Doubles]:
        words = self._reconstructed(self.encode(rows))
        return [
            least_squares(with_constant(own[has], 1.0), part[has].astype(np.float64))
            for part, own, has in zip(self._split(rows), words, present.T, strict=True)
        ]

    def encode(self, vectors: npt.ArrayLike, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]``; ``beam`` is the beam width over the shared levels."""
        self._refuse_unfitted()
        check_beam(beam)
        rows = checked_vectors(vectors, self._columns)
        levels = self.residual_levels
        codes = np.empty((len(rows), len(self.sizes_)), dtype=np.int32)
        searches = [NearestCode(book) for book in self.private_]
        for start in range(0, len(rows), _STEP):
            part = slice(start, start + _STEP)
            unit, present = self._unit(rows[part]), self._present(rows[part])
            codes[part, :levels] = self.shared_.encode(unit_sum(unit), beam=beam)
            agreed = self.shared_.decode(codes[part, :levels])
            for at, search in enumerate(searches):
                nearest = search(np.ascontiguousarray(unit[at] - agreed))
                codes[part, levels + at] = np.where(present[:, at], nearest, len(self.private_[at]))
        return codes

    def decode(self, codes: Codes) -> Floats:
        """The decoders' output for the shared and private codewords, ``float32 [items, dim]``; zeros for an absent view."""
        self._refuse_unfitted()
        checked = int_codes(codes, self.sizes_)
        words = self._reconstructed(checked)
        return self._decoded([with_constant(each, 1.0) for each in words], checked)

    def decode_flat(self, codes: Codes) -> Floats:
        """What the private codes add, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        checked = int_codes(codes, self.sizes_)
        words = self._private_words(checked)
        return self._decoded([with_constant(each, 0.0) for each in words], checked)

    def decode_prefix(self, codes: Codes, depth: int) -> Floats:
        """Reconstruction from the first ``depth <= residual_levels`` levels, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        checked = int_codes(codes, self.sizes_)
        words = self.shared_.decode_prefix(checked[:, : self.residual_levels], depth).astype(np.float64)
        return self._decoded([with_constant(words, 1.0)] * len(self.views_), checked)

    @property
    def _columns(self) -> int:
        return max(stop for _, stop in self.views_.values())

    def _split(self, rows: Floats) -> list[Floats]:
        return [rows[:, start:stop] for start, stop in self.views_.values()]

    def _present(self, rows: Floats) -> Bools:
        """Whether a row has each view, ``bool [rows, views]``."""
        return np.stack([(part != 0).any(axis=1) for part in self._split(rows)], axis=1)

    def _unit(self, rows: Floats) -> list[Floats]:
        """``h^m`` of each view, ``float32 [rows, width]``; in double precision and rounded once, so that it does not depend on
        the batch.
        """
        found = []
        for part, projection in zip(self._split(rows), self.projections_, strict=True):
            found.append(of_length_one(part.astype(np.float64) @ projection))
        return found

    def _private_words(self, codes: Codes) -> list[Doubles]:
        """Private codewords of each view, ``float64 [items, width]``; zeros for an absent view."""
        levels, found = self.residual_levels, []
        for at, book in enumerate(self.private_):
            absent = np.zeros((1, book.shape[1]), np.float32)
            found.append(np.concatenate([book, absent])[codes[:, levels + at]].astype(np.float64))
        return found

    def _reconstructed(self, codes: Codes) -> list[Doubles]:
        """``s'`` plus the private codeword of each view."""
        agreed = self.shared_.decode(codes[:, : self.residual_levels]).astype(np.float64)
        return [agreed + own for own in self._private_words(codes)]

    def _decoded(self, words: Sequence[Doubles], codes: Codes) -> Floats:
        decoded = np.zeros((len(codes), self._columns), dtype=np.float32)
        for at, (start, stop) in enumerate(self.views_.values()):
            present = codes[:, self.residual_levels + at] < len(self.private_[at])
            decoded[:, start:stop] = np.where(present[:, None], words[at] @ self.decoders_[at], 0.0)
        return decoded

    def config(self) -> dict[str, Any]:
        """See :class:`Quantizer`; views that the encoder named are those of the fit."""
        arguments = super().config()
        if arguments.get("views", ()) is None and hasattr(self, "views_"):
            arguments["views"] = list(self.views_)
        return arguments

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays; the names and columns of the views are JSON in UTF-8."""
        parts: dict[str, Sequence[npt.NDArray[np.generic]]] = {
            "projection": self.projections_,
            "private": self.private_,
            "decoder": self.decoders_,
        }
        return {
            "views": np.frombuffer(json.dumps(self.views_).encode(), dtype=np.uint8),
            **{f"shared.{key}": value for key, value in self.shared_.tensors().items()},
            **{f"{part}.{at}": each for part, arrays in parts.items() for at, each in enumerate(arrays)},
        }

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        stated = json.loads(tensors["views"].astype(np.uint8).tobytes())
        self.views_ = {name: (int(start), int(stop)) for name, (start, stop) in stated.items()}
        self.shared_ = ResidualKMeans().load_tensors(tensors_under(tensors, "shared."))
        self.private_ = numbered(tensors, "private.")
        self.projections_, self.decoders_ = (
            [tensors[f"{part}.{at}"].astype(np.float64) for at in range(len(self.views_))]
            for part in ("projection", "decoder")
        )
        self.sizes_ = (*self.shared_.sizes_, *(len(book) + 1 for book in self.private_))
        return self
