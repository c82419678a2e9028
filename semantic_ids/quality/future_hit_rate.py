"""What came after a codebook's fit, asked of its vectors and codes: item-to-item hit rates beside baselines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from semantic_ids.encoders import CollaborativeEncoder, ContentEncoder
from semantic_ids.pairs.known_items import KnownItems, known_items, pairs_among
from semantic_ids.pairs.mining import JUDGES, ItemPairs, PairSpec
from semantic_ids.quality.hit_rate import (
    HitReport,
    NotMeasured,
    Scores,
    by_codes,
    by_popularity,
    by_reconstructions,
    by_vectors,
    hit_rates,
)
from semantic_ids.quality.hit_rate import questions as asked_of
from sidkit.core.arrays import Floats
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import iso
from sidkit.core.errors import FitError
from sidkit.core.repo import Repo

MOST_TRIGGERS = 2000


def future_hits(
    repo: Repo, names: Sequence[str], end_us: int, *, baselines: bool = False, seed: int = 0
) -> HitReport | NotMeasured:
    """Hit rates at 30 of codebooks with one ``fit_end``, on pairs of clicks after it that are no training pairs.

    Every codebook is asked by its vectors (its name), by what its codes stand for (``<name>:decoded``) and by shared
    codes (``<name>:codes``). With ``baselines`` three more are asked: ``popularity``, ``content`` (the content encoder
    fitted on the same items) and ``collaborative`` (co-occurrence regressed on content).

    Parameters
    ----------
    repo : Repo
        With built tables.
    names : sequence of str
        Fitted codebooks; all must have been fitted at the same moment.
    end_us : int
        Clicks known by then are asked about, microseconds UTC; items known by then are ranked.
    baselines : bool
        Also judge the three baselines.
    seed : int
        Decides which triggers are asked and the bootstrap's samples.

    Returns
    -------
    HitReport or NotMeasured
        ``NotMeasured`` where no click came after the fit, or no user went on from one item to another that way.

    Raises
    ------
    FitError
        When the codebooks were fitted at different moments.
    """
    catalog = Catalog.open(repo)
    ends = {catalog.codebook(name).fit_end_us for name in names}
    if len(ends) != 1:
        raise FitError(f"{', '.join(names)} were fitted at {len(ends)} moments; judge those of one moment together")
    (start_us,) = ends
    if end_us <= start_us:
        return NotMeasured(f"the codebook was fitted at {iso(start_us)} and no later event is known")
    items, before = known_items(repo, end_us), known_items(repo, start_us)
    content = ContentEncoder().fit(before.content)
    vectors = content.encode(items.content)
    training = _training_pairs(repo, names, items, vectors, start_us)
    future = pairs_among(repo, items, vectors, end_us, JUDGES, start_us=start_us)
    asked = asked_of(future, np.isin(items.ids, before.ids), training, most_triggers=MOST_TRIGGERS, seed=seed)
    if not len(asked):
        return NotMeasured(
            f"no pair of clicks after {iso(start_us)} is left to measure by ({len(future):,} pairs before those learned from "
            "were taken out): no user went on from one item to another, or nobody came back"
        )
    ways: dict[str, Scores] = {}
    for name in names:
        codebook = Codebook.load(repo.codebooks / name)
        own = codebook.vectors(items.content)
        codes = codebook.codes_of(own)
        ways[name] = by_vectors(own)
        ways[f"{name}:decoded"] = by_reconstructions(codebook.quantizer, codes)
        ways[f"{name}:codes"] = by_codes(codes, residual_levels=codebook.quantizer.residual_levels)
    if baselines:
        ways["popularity"] = by_popularity(training.clicks)
        ways["content"] = by_vectors(vectors)
        known_pairs = pairs_among(repo, before, content.encode(before.content), start_us, PairSpec())
        if len(known_pairs):
            collaborative = CollaborativeEncoder().fit(before.content, known_pairs)
            ways["collaborative"] = by_vectors(collaborative.encode(items.content))
    return hit_rates(ways, asked, seed=seed)


def _training_pairs(repo: Repo, names: Sequence[str], items: KnownItems, vectors: Floats, end_us: int) -> ItemPairs:
    """All pairs that any of the codebooks, or the baseline, may have learned from."""
    specs = [PairSpec()]
    for name in names:
        # A rehearsal only decides for how long is learned; its pairs teach nothing.
        spec = PairSpec(**read_manifest(repo.codebooks / name)["spec"]["pairs"]).model_copy(update={"rehearsal": 0.0})
        specs += [spec] if spec not in specs else []
    mined = [pairs_among(repo, items, vectors, end_us, spec) for spec in specs]
    trigger, target, weight = (
        np.concatenate([getattr(pairs, part) for pairs in mined]) for part in ("trigger", "target", "weight")
    )
    return ItemPairs(trigger, target, weight, mined[0].clicks, end_us)
