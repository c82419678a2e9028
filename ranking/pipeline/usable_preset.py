"""The part of a preset that a catalogue allows: without vectors, or with few items, no codes can be fitted."""

from __future__ import annotations

import pyarrow.parquet as pq

from ranking.pipeline.presets import Preset, arms_without_codes
from semantic_ids.pairs.known_items import known_items
from semantic_ids.quantizers.sizes import LEAST_ITEMS
from sidkit.core.repo import Repo

_SMALL = 10_000
"""Rows of item_content above which the item vectors are not checked before fitting codes."""


def usable_preset(repo: Repo, preset: Preset, fit_end_us: int) -> tuple[Preset, str | None]:
    """Return the preset, without the arms that read codes if the catalogue is too small to fit codes at ``fit_end_us``
    (microseconds UTC), and a sentence on the arms that were dropped, if any.

    Raises
    ------
    FitError
        When no arm is left.
    """
    if not repo.settings.source.modalities:
        return _without_vectors(preset)
    content = pq.read_metadata(repo.tables / "item_content.parquet").num_rows
    if preset.codebook.sizes is not None or preset.codebook.force or content > _SMALL:
        return preset, None
    known = known_items(repo, fit_end_us)
    distinct = known.content.distinct(2)
    if len(known) >= LEAST_ITEMS and distinct > 1:
        return preset, None
    usable = arms_without_codes(preset)
    dropped = [name for name in preset.arms if name not in usable.arms]
    reason = (
        f"codes require {LEAST_ITEMS} items with vectors at the end of training, got {len(known)}"
        if len(known) < LEAST_ITEMS
        else f"codes require distinct item vectors, but all {len(known)} items at the end of training have the same vector"
    )
    return usable, f"{reason}; skipping the arms that read codes: {', '.join(dropped)}"


def _without_vectors(preset: Preset) -> tuple[Preset, str]:
    usable = arms_without_codes(preset, content=False)
    dropped = [name for name in preset.arms if name not in usable.arms]
    return usable, (
        f"the source has no vectors (source.modalities = []); skipping the arms that read content or codes: "
        f"{', '.join(dropped)}. `sidkit data embed` computes vectors; then create a new repository"
    )
