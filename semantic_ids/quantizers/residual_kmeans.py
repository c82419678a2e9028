"""Residual k-means: each level clusters the residuals of the levels before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.given import Pairs
from semantic_ids.quantizers.base import Quantizer, canonical_order, check_beam, checked_vectors, int_codes, numbered
from semantic_ids.quantizers.kmeans import balance, cluster
from semantic_ids.quantizers.local_codes import LocalCodes
from semantic_ids.quantizers.nearest import nearest, residual_codes, residual_sum
from semantic_ids.quantizers.sizes import as_sizes, check_sizes, default_sizes
from semantic_ids.quantizers.training_sample import streamed_sample, training_sample
from sidkit.core.arrays import Codes, Floats
from sidkit.core.artifact import tensors_under
from sidkit.core.errors import FitError

LastLevel = Literal["global", "balanced", "local"]
LocalParent = Literal["prefix", "level"]
_CHUNK = 65_536


class ResidualKMeans(Quantizer):
    """Residual k-means on faiss, trained greedily level by level.

    ``c^l = argmin_k ||r^{l-1} - e^l_k||^2`` and ``r^l = r^{l-1} - e^l_{c^l}``, with ``r^0`` the vector; the reconstruction
    is ``sum_l e^l_{c^l}``. ``fit`` is greedy, because beam search in training degraded the second level in our
    measurements; a beam at ``encode`` finds closer combinations of the same codewords. See :func:`cluster` for the
    initialisation. Without a local level, ``fit`` learns from a sample of 2**18 rows if there are more
    (:func:`~semantic_ids.quantizers.training_sample.training_sample`); ``fit_blocks`` draws the same sample from a stream.

    Parameters
    ----------
    sizes : sequence of int, optional
        Codes per level, coarse to fine; any size, not only powers of two. Default: three equal levels, chosen at ``fit``
        from the number of rows (about rows / 40).
    iterations : int
        k-means iterations per step.
    seed : int
        Random seed; the result does not depend on the row order.
    threads : int
        Faiss threads during ``fit``. A different number can give slightly different codebooks.
    force : bool
        Fit even with fewer than 20 rows per code.
    last_level : {"global", "balanced", "local"}
        How the last level is clustered. ``global``: as the others. ``balanced``: with balanced k-means (OneSearch, arXiv
        2509.03236, section on RQ-KMeans). Only ``fit`` is balanced: ``encode`` takes the nearest codeword, so usage is
        nearly, not exactly, uniform. Balancing every level would destroy the hierarchy and is not supported. ``local``:
        every parent has its own codewords, as in the published code of OneSearch; the last size is the most per parent, and
        ``sizes_`` has the number of codes of all parents (:class:`~semantic_ids.quantizers.local_codes.LocalCodes`).
    local_parent : {"prefix", "level"}
        The parent of a local level: all codes before, or the one before.

    Attributes
    ----------
    sizes_ : tuple of int
        Codes per level.
    codebooks_ : list of ndarray
        Codewords of each level but a local one, ``float32 [codes, dim]``.
    local_ : LocalCodes or None
        The local last level.
    n_features_in_ : int
        Width of the vectors.

    References
    ----------
    OneSearch (arXiv 2509.03236), section on RQ-KMeans; QARM (arXiv 2411.11739), which quantizes residuals by k-means too.

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids import ResidualKMeans
    >>> x = np.random.default_rng(0).normal(size=(2000, 8)).astype("float32")
    >>> quantizer = ResidualKMeans()
    >>> codes = quantizer.fit_transform(x)
    >>> codes.shape, codes.dtype, quantizer.sizes_
    ((2000, 3), dtype('int32'), (64, 64, 64))
    >>> quantizer.inverse_transform(codes).shape
    (2000, 8)
    >>> ResidualKMeans(sizes=(32, 8)).fit(x).transform(x[:5]).shape
    (5, 2)

    With a local last level, most items have a code of their own:

    >>> local = ResidualKMeans(sizes=(16, 8, 8), last_level="local").fit(x)
    >>> len(np.unique(local.transform(x), axis=0)) > len(np.unique(ResidualKMeans((16, 8, 8)).fit_transform(x), axis=0))
    True
    """

    name = "residual_kmeans"

    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        iterations: int = 25,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
        last_level: LastLevel = "global",
        local_parent: LocalParent = "prefix",
    ) -> None:
        self.sizes = sizes
        self.iterations = iterations
        self.seed = seed
        self.threads = threads
        self.force = force
        self.last_level = last_level
        self.local_parent = local_parent

    @classmethod
    def arguments_of_release(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of this release: ``balance_last`` was a flag."""
        return with_last_level(arguments)

    def fit(self, vectors: npt.ArrayLike, pairs: Pairs = None) -> Self:
        """Learn one codebook per level.

        Raises
        ------
        FitError
            When the vectors are not finite or too few for the sizes.
        """
        check_last_level(self.last_level, self.local_parent)
        rows = checked_vectors(vectors)
        sizes = self.sizes_for(rows)
        local = self.last_level == "local"
        if local and len(sizes) < 2:
            raise FitError(
                f"expected a level before a local one, got sizes {sizes}; add one, or set last_level = 'global'"
            )
        # A local level has codewords of every parent, so it needs all rows.
        return self._learn(rows[canonical_order(rows) if local else training_sample(rows, sizes, self.seed)], sizes)

    def fit_blocks(self, blocks: Iterable[npt.ArrayLike]) -> Self:
        """Like :meth:`fit` of all blocks together, for vectors that do not fit in memory.

        Memory holds twice the sample of 2**18 rows and one block, whatever the number of blocks. The codebooks are those that
        :meth:`fit` learns from the same vectors, whatever the sizes of the blocks and their order.

        Parameters
        ----------
        blocks : iterable of array-like
            Vectors ``[rows, dim]`` each.

        Raises
        ------
        FitError
            When the vectors are not finite, of different widths or too few for the sizes, or the last level is local: it learns
            from all rows.

        Examples
        --------
        >>> import numpy as np
        >>> from semantic_ids import ResidualKMeans
        >>> x = np.random.default_rng(0).normal(size=(2000, 8)).astype("float32")
        >>> streamed = ResidualKMeans(sizes=(16, 8)).fit_blocks(x[at : at + 300] for at in range(0, 2000, 300))
        >>> bool((streamed.transform(x) == ResidualKMeans(sizes=(16, 8)).fit_transform(x)).all())
        True
        """
        check_last_level(self.last_level, self.local_parent)
        if self.last_level == "local":
            raise FitError(
                "expected last_level = 'global' or 'balanced' to learn from blocks, got 'local', which learns from all rows; "
                "call fit, or set another last_level"
            )
        given = None if self.sizes is None else as_sizes(self.sizes)
        sample = streamed_sample(blocks, given or (), self.seed)
        sizes = given if given is not None else default_sizes(sample.rows, distinct=sample.distinct)
        check_sizes(sizes, sample.rows, force=self.force)
        return self._learn(sample.vectors, sizes)

    def _learn(self, residual: Floats, sizes: tuple[int, ...]) -> Self:
        """Cluster level by level; ``residual`` is overwritten."""
        local = self.last_level == "local"
        codes = np.empty((len(residual), len(sizes)), dtype=np.int32)
        codebooks: list[Floats] = []
        for level, size in enumerate(sizes[: len(sizes) - local]):
            codebook = cluster(residual, size, self.iterations, self.seed + level, self.threads)
            last = level + 1 == len(sizes)
            if last and self.last_level == "balanced":
                codebook = balance(residual, codebook)
            codebooks.append(codebook)
            if not last:
                codes[:, level] = nearest(residual, codebook)
                residual -= codebook[codes[:, level]]
        self.codebooks_ = codebooks
        self.local_ = self._fit_local(codes[:, :-1], residual, sizes[-1]) if local else None
        self.sizes_ = self._fitted_sizes()
        return self

    def _fit_local(self, codes: Codes, residual: Floats, size: int) -> LocalCodes:
        def clustered(members: Floats) -> Floats:
            return cluster(members, size, self.iterations, self.seed + codes.shape[1], self.threads)

        return LocalCodes.fit(self._parents(codes), residual, size, clustered)

    def _parents(self, codes: Codes) -> Codes:
        return codes if self.local_parent == "prefix" else codes[:, -1:]

    def _fitted_sizes(self) -> tuple[int, ...]:
        sizes = tuple(len(codebook) for codebook in self.codebooks_)
        return sizes if self.local_ is None else (*sizes, self.local_.codes)

    @property
    def _argument_sizes(self) -> tuple[int, ...]:
        return self.sizes_ if self.local_ is None else (*self.sizes_[:-1], self.local_.size)

    def encode(self, vectors: npt.ArrayLike, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]`` by greedy search level by level, or by beam search of width ``beam``.

        The beam is over the levels before a local one.
        """
        self._refuse_unfitted()
        check_beam(beam)
        rows = checked_vectors(vectors, self.codebooks_[0].shape[1])
        codes = residual_codes(rows, self.codebooks_, beam)
        if self.local_ is None:
            return codes
        last = np.empty((len(rows), 1), dtype=np.int32)
        for start in range(0, len(rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            left = rows[part] - residual_sum(codes[part], self.codebooks_)
            last[part, 0] = self.local_.encode(self._parents(codes[part]), left)
        return np.concatenate([codes, last], axis=1)

    def decode(self, codes: Codes) -> Floats:
        """Sum of the codewords, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        return self._sum(int_codes(codes, self.sizes_))

    def decode_prefix(self, codes: Codes, depth: int) -> Floats:
        """Reconstruction from the first ``depth`` levels of the codes, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        return self._sum(int_codes(codes, self.sizes_)[:, :depth])

    def _sum(self, codes: Codes) -> Floats:
        """Sum of the codewords of the levels present in ``codes``."""
        if self.local_ is None or codes.shape[1] <= len(self.codebooks_):
            return residual_sum(codes, self.codebooks_)
        return residual_sum(codes[:, :-1], self.codebooks_) + self.local_.decode(codes[:, -1].astype(np.int64))

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""
        tensors: dict[str, npt.NDArray[np.generic]] = {
            f"codebook.{level}": codebook for level, codebook in enumerate(self.codebooks_)
        }
        local = {} if self.local_ is None else self.local_.tensors()
        return tensors | {f"local.{name}": tensor for name, tensor in local.items()}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.codebooks_ = numbered(tensors, "codebook.")
        local = tensors_under(tensors, "local.")
        self.local_ = LocalCodes.of_tensors(local) if local else None
        self.sizes_ = self._fitted_sizes()
        return self


def check_last_level(last_level: str, local_parent: str) -> None:
    """Check how the last level is clustered.

    Raises
    ------
    FitError
        When a value is unknown.
    """
    for name, value, known in (
        ("last_level", last_level, get_args(LastLevel)),
        ("local_parent", local_parent, get_args(LocalParent)),
    ):
        if value not in known:
            raise FitError(f"expected {name} as one of {', '.join(known)}, got {value!r}")


def with_last_level(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with ``last_level`` instead of the flag ``balance_last`` of earlier releases."""
    named = dict(arguments)
    if "balance_last" in named:
        balanced = named.pop("balance_last")
        named.setdefault("last_level", "balanced" if balanced else "global")
    return named
