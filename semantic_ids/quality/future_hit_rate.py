"""Item-to-item hit rates of codebooks on clicks after their fit, compared with baselines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from semantic_ids.encoders import CollaborativeEncoder, ContentEncoder
from semantic_ids.pairs.known_items import KnownItems, known_items, pairs_among
from semantic_ids.pairs.mining import EVALUATION_PAIRS, ItemPairs, PairSpec
from semantic_ids.quality.hit_rate import (
    HitReport,
    NotMeasured,
    Scores,
    by_codes,
    by_popularity,
    by_reconstructions,
    by_vectors,
    held_out_pairs,
    hit_rates,
)
from sidkit.core.arrays import Floats
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import iso
from sidkit.core.errors import FitError
from sidkit.core.repo import Repo

MOST_TRIGGERS = 2000


def future_hits(
    repo: Repo, names: Sequence[str], end_us: int, *, baselines: bool = False, seed: int = 0
) -> HitReport | NotMeasured:
    """Hit rate at 30 of codebooks with the same ``fit_end``, on pairs of later clicks that are not training pairs.

    Every codebook is evaluated by its vectors (under its name), by the reconstructions of its codes
    (``<name>:decoded``) and by shared codes (``<name>:codes``). With ``baselines``, three more rankings are evaluated:
    ``popularity``, ``content`` (the content encoder fitted on the same items) and ``collaborative`` (co-occurrence
    regressed on content).

    Parameters
    ----------
    repo : Repo
        With built tables.
    names : sequence of str
        Fitted codebooks; all must have the same ``fit_end``.
    end_us : int
        Clicks known by then are evaluated, microseconds UTC; items known by then are ranked.
    baselines : bool
        Also evaluate the three baselines.
    seed : int
        Seed of the sample of triggers.

    Returns
    -------
    HitReport or NotMeasured
        ``NotMeasured`` if there are no clicks after the fit, or no pairs of them.

    Raises
    ------
    FitError
        When the codebooks have different ``fit_end``.
    """
    catalog = Catalog.open(repo)
    ends = {catalog.codebook(name).fit_end_us for name in names}
    if len(ends) != 1:
        raise FitError(
            f"expected codebooks with the same fit_end, got {', '.join(names)} with {len(ends)} different ones; evaluate "
            "each fit_end separately"
        )
    (start_us,) = ends
    if end_us <= start_us:
        return NotMeasured(f"the codebook was fitted at {iso(start_us)} and no later event is known")
    items, before = known_items(repo, end_us), known_items(repo, start_us)
    content = ContentEncoder().fit(before.content)
    vectors = content.encode(items.content)
    training = _training_pairs(repo, names, items, vectors, start_us)
    future = pairs_among(repo, items, vectors, end_us, EVALUATION_PAIRS, start_us=start_us)
    # Not np.isin, which compares objects with each other: a minute for 30,000 items.
    known = pc.is_in(pa.array(items.ids, pa.string()), value_set=pa.array(before.ids, pa.string())).to_numpy(
        zero_copy_only=False
    )
    evaluated = held_out_pairs(future, known, training, most_triggers=MOST_TRIGGERS, seed=seed)
    if not len(evaluated):
        return NotMeasured(
            f"no pairs of clicks after {iso(start_us)} to evaluate ({len(future):,} pairs before removing training pairs)"
        )
    rankings: dict[str, Scores] = {}
    for name in names:
        codebook = Codebook.load(repo.codebooks / name)
        encoded = codebook.vectors(items.content)
        codes = codebook.codes_of(encoded)
        rankings[name] = by_vectors(encoded)
        rankings[f"{name}:decoded"] = by_reconstructions(codebook.quantizer, codes)
        rankings[f"{name}:codes"] = by_codes(codes, residual_levels=codebook.quantizer.residual_levels)
    if baselines:
        rankings["popularity"] = by_popularity(training.clicks)
        rankings["content"] = by_vectors(vectors)
        known_pairs = pairs_among(repo, before, content.encode(before.content), start_us, PairSpec())
        if len(known_pairs):
            collaborative = CollaborativeEncoder().fit(before.content, known_pairs)
            rankings["collaborative"] = by_vectors(collaborative.encode(items.content))
    return hit_rates(rankings, evaluated)


def _training_pairs(repo: Repo, names: Sequence[str], items: KnownItems, vectors: Floats, end_us: int) -> ItemPairs:
    """All pairs that any of the codebooks or the baseline may have been trained on."""
    specs = [PairSpec()]
    for name in names:
        # A backtest only sets the number of training steps; the model is not trained on its later pairs.
        spec = PairSpec(**read_manifest(repo.codebooks / name)["spec"]["pairs"]).model_copy(update={"rehearsal": 0.0})
        specs += [spec] if spec not in specs else []
    mined = [pairs_among(repo, items, vectors, end_us, spec) for spec in specs]
    trigger, target, weight = (
        np.concatenate([getattr(pairs, part) for pairs in mined]) for part in ("trigger", "target", "weight")
    )
    return ItemPairs(trigger, target, weight, mined[0].clicks, end_us)
