"""RQ-VAE: residual quantization of a learned latent space, with an optional contrastive loss on item pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Self

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.given import Pairs
from semantic_ids.quantizers.base import check_beam, checked_vectors, int_codes, numbered
from semantic_ids.quantizers.contrastive import ContrastiveQuantizer
from semantic_ids.quantizers.nearest import residual_codes, residual_sum
from sidkit.core.arrays import Codes, Doubles, Floats
from sidkit.core.errors import FitError

_STEP = 2**13  # rows passed through a network at once


class RQVAE(ContrastiveQuantizer):
    r"""Residual-quantized autoencoder; it learns from vectors alone, or from pairs of items too if ``contrast`` is above 0.

    With the encoder :math:`E`, the decoder :math:`D` and the codewords :math:`e^l_k`,

    .. math::
        r^0 = E(x),\quad c^l = \arg\min_k \|r^{l-1} - e^l_k\|^2,\quad r^l = r^{l-1} - e^l_{c^l},\quad
        \hat x = D(\textstyle\sum_l e^l_{c^l})

        L = \|x - \hat x\|^2 + \beta \sum_l \|r^{l-1} - \mathrm{sg}[e^l_{c^l}]\|^2 + \lambda\, L_{cl}(\hat x)

    (SaviorRec, arXiv 2508.01375, figure 2; the recursion of RQ-VAE, Lee et al. 2022, section 3). Gradients use the
    straight-through estimator; codewords are exponential moving averages of their residuals, which replaces the codebook
    loss (van den Oord et al. 2017, appendix A.1). :math:`L_{cl}` is InfoNCE between the reconstructions of trigger and
    target: cosine similarity, temperature 0.07, in-batch negatives with logQ correction from ``pairs.clicks``. No item
    occurs twice in a batch, and known positives are excluded from the negatives.

    Against codebook collapse: encoder and decoder are initialised as the principal axes plus a zero-initialised network,
    and every level from k-means of its residuals; dead codes restart at a random residual; at the end the codebooks are
    refined by a few k-means iterations and the decoder alone is trained on them.

    Parameters
    ----------
    sizes : sequence of int, optional
        Codes per level, coarse to fine. Default: three equal levels, chosen at ``fit`` from the number of rows (about
        rows / 40).
    latent_dim : int
        Width of the latent space, at most that of the vectors.
    hidden : sequence of int
        Widths of the encoder's hidden layers; the decoder mirrors them.
    epochs : int
        Passes over the vectors.
    batch : int
        Rows per step; with ``contrast``, as many pairs at most.
    learning_rate : float
        Initial learning rate of Adam, with cosine decay to 0.
    commitment : float
        The factor beta.
    contrast : float
        The factor lambda. At 0, the default, the codes are learned from vectors alone and pairs are ignored; a value above 0
        requires pairs.
    decay : float
        Of the codewords' moving averages.
    seed : int
        Random seed; the result does not depend on the row order.
    threads : int
        Threads during ``fit``. A different number can give slightly different codebooks.
    force : bool
        Fit even with fewer than 20 rows per code.

    Attributes
    ----------
    sizes_ : tuple of int
        Codes per level.
    codebooks_ : list of ndarray
        Codewords of each level, ``float32 [codes, latent_dim]``.
    encoder_, decoder_ : list of ndarray
        Matrices of the networks: the linear path, then weights and bias of each layer.
    mean_, scale_ : ndarray
        ``float32 [dim]`` and ``[1]``; vectors are standardised by them.
    n_features_in_ : int
        Width of the vectors.

    References
    ----------
    TIGER (arXiv 2305.05065), which introduced RQ-VAE codes as item ids; SaviorRec (arXiv 2508.01375), figure 2; Lee et al.:
    Autoregressive Image Generation using Residual Quantization, CVPR 2022, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from semantic_ids import RQVAE
    >>> x = np.random.default_rng(0).normal(size=(400, 8)).astype("float32")
    >>> quantizer = RQVAE(sizes=(8, 8), latent_dim=4, hidden=(16,), epochs=3)
    >>> codes = quantizer.fit_transform(x)
    >>> codes.shape, quantizer.inverse_transform(codes).shape
    ((400, 2), (400, 8))

    With pairs of similar items, here row 0 with 1, row 2 with 3, ...:

    >>> pairs = np.arange(400).reshape(-1, 2)
    >>> quantizer.set_params(contrast=0.1).fit(x, pairs).transform(x[:5]).shape
    (5, 2)
    """

    name = "rq_vae"
    modules = ("torch",)

    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        latent_dim: int = 32,
        hidden: Sequence[int] = (256,),
        epochs: int = 15,
        batch: int = 1024,
        learning_rate: float = 1e-3,
        commitment: float = 0.25,
        contrast: float = 0.0,
        decay: float = 0.99,
        seed: int = 0,
        threads: int = 1,
        force: bool = False,
    ) -> None:
        self.sizes = sizes
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.commitment = commitment
        self.contrast = contrast
        self.decay = decay
        self.seed = seed
        self.threads = threads
        self.force = force

    def fit(self, vectors: npt.ArrayLike, pairs: Pairs = None) -> Self:
        """Train encoder, codebooks and decoder; ``pairs`` are used only if ``contrast`` is above 0.

        Raises
        ------
        FitError
            When the vectors are not finite or too few for the sizes, an argument is out of range, or ``contrast`` is
            above 0 and the pairs are missing, were mined for other items, or all share items.
        """
        rows = checked_vectors(vectors)
        sizes = self.sizes_for(rows)
        self._check_arguments()
        ordered, known = self._in_order(rows, pairs)
        self.mean_: Floats = ordered.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = float(np.sqrt(np.mean((ordered - self.mean_).astype(np.float64) ** 2)))
        self.scale_ = np.array([scale or 1.0], dtype=np.float32)

        from semantic_ids.quantizers.rq_vae_training import RQVAETraining, train

        own = {field.name: getattr(self, field.name) for field in fields(RQVAETraining)}
        training = RQVAETraining(**{**own, "sizes": sizes, "hidden": tuple(self.hidden)})
        learned = train(training, (ordered - self.mean_) / self.scale_, known)
        self.codebooks_: list[Floats] = learned.codebooks
        self.encoder_: list[Floats] = learned.encoder
        self.decoder_: list[Floats] = learned.decoder
        self.sizes_ = sizes
        return self

    def _check_arguments(self) -> None:
        whole = {"latent_dim": self.latent_dim, "epochs": self.epochs, "batch": self.batch}
        whole["hidden"] = min(self.hidden, default=1)
        for argument, value in whole.items():
            if value < 1:
                raise FitError(f"{argument} must be at least 1, got {value}")
        if not 0 <= self.decay < 1:
            raise FitError(f"decay must be at least 0 and below 1, got {self.decay}")
        if self.learning_rate <= 0 or min(self.commitment, self.contrast) < 0:
            raise FitError(
                "learning_rate must be above 0, and commitment and contrast at least 0, got "
                f"{self.learning_rate}, {self.commitment} and {self.contrast}"
            )

    def latents(self, vectors: npt.ArrayLike) -> Floats:
        """The encoder's latent vectors, ``float32 [items, latent_dim]``."""
        self._refuse_unfitted()
        rows = checked_vectors(vectors, len(self.mean_))
        return _forward(self.encoder_, rows, lambda part: (part - self.mean_) / self.scale_)

    def encode(self, vectors: npt.ArrayLike, beam: int = 1) -> Codes:
        """Codes ``int32 [items, levels]`` of the latent vectors, by greedy search or beam search of width ``beam``."""
        check_beam(beam)
        return residual_codes(self.latents(vectors), self.codebooks_, beam)

    def decode(self, codes: Codes) -> Floats:
        """The decoder's output for the sum of the codewords, ``float32 [items, dim]``."""
        return self.decode_prefix(codes, len(self.sizes_))

    def decode_prefix(self, codes: Codes, depth: int) -> Floats:
        """The decoder's output for the sum of the first ``depth`` codewords, ``float32 [items, dim]``."""
        self._refuse_unfitted()
        total = residual_sum(int_codes(codes, self.sizes_)[:, :depth], self.codebooks_)
        return _forward(self.decoder_, total, lambda part: part) * self.scale_ + self.mean_

    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays; see :func:`_forward` for the order of a network's matrices."""
        lists = {"codebook": self.codebooks_, "encoder": self.encoder_, "decoder": self.decoder_}
        state = {f"{name}.{at}": array for name, arrays in lists.items() for at, array in enumerate(arrays)}
        return {**state, "mean": self.mean_, "scale": self.scale_}

    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""
        self.codebooks_ = numbered(tensors, "codebook.")
        self.encoder_ = numbered(tensors, "encoder.")
        self.decoder_ = numbered(tensors, "decoder.")
        self.sizes_ = tuple(len(codebook) for codebook in self.codebooks_)
        self.mean_, self.scale_ = tensors["mean"].astype(np.float32), tensors["scale"].astype(np.float32)
        return self


def _forward(network: Sequence[Floats], rows: Floats, prepare: Callable[[Floats], Floats]) -> Floats:
    """A network's output, ``float32 [rows, out]``; in double precision, so that rounding does not depend on the batch.

    ``network`` is the matrix of the linear path, then weights and bias of each layer; ReLU between the layers.
    """
    straight, *layers = (array.astype(np.float64) for array in network)
    out = np.empty((len(rows), straight.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), _STEP):
        part: Doubles = prepare(rows[start : start + _STEP]).astype(np.float64)
        hidden = part
        for at in range(0, len(layers), 2):
            hidden = hidden @ layers[at] + layers[at + 1]
            if at + 2 < len(layers):
                np.maximum(hidden, 0, out=hidden)
        out[start : start + _STEP] = part @ straight + hidden
    return out
