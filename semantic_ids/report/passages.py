"""Text and lists of a report for the templates, which escape them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from semantic_ids.report.facts import Facts
from semantic_ids.report.figures import figures_now, text
from semantic_ids.report.periods import Period
from semantic_ids.report.tree import shortened
from sidkit.core.clock import from_us

BUCKETS = 20
"""Maximum number of shared codes listed."""
BUCKET_ITEMS = 12
"""Maximum number of items listed per shared code."""


@dataclass(frozen=True)
class NamedItem:
    """A listed item; ``title`` and ``category`` are None if missing."""

    id: str
    title: str | None
    category: str | None


@dataclass(frozen=True)
class SharedCode:
    """A full code shared by several items."""

    code: list[int]
    count: int
    listed: list[NamedItem]
    """At most ``BUCKET_ITEMS`` of its items."""


@dataclass(frozen=True)
class Collisions:
    """Items whose full code is not unique."""

    items: int
    """Items with codes."""
    shared_codes: int
    """Full codes that more than one item has."""
    sharing_items: int
    """Items with one of these codes."""
    largest: list[SharedCode]
    """At most ``BUCKETS`` of the shared codes, largest first."""


def summary(facts: Facts) -> str:
    """Return the one-line summary below the name."""
    record = facts.record
    return f"{record.quantizer} of {_sizes(facts)} codes on {record.encoder} vectors"


def tiles(facts: Facts) -> list[tuple[str, str]]:
    """Return the four headline numbers with their captions."""
    now = figures_now(facts)
    used = now.get("utilisation", [])
    return [
        (text(len(facts.items)), "items with codes"),
        (_sizes(facts), "codes per level"),
        (text(min(used), "share") if used else "–", "of codes used on the least used level"),
        (text(now.get("independent_code_rate"), "share"), "of items have a unique code"),
    ]


def described(facts: Facts) -> list[tuple[str, str]]:
    """Return the description of the codebook as pairs of term and value."""
    record, manifest = facts.record, facts.manifest
    spec: Mapping[str, Any] = manifest.get("spec", {})
    encoder, quantizer = (
        ", ".join(f"{key} {value}" for key, value in sorted(spec.get(f"{part}_arguments", {}).items()))
        for part in ("encoder", "quantizer")
    )
    entries = [
        ("Quantizer", record.quantizer + (f" ({quantizer})" if quantizer else "")),
        ("Encoder", record.encoder + (f" ({encoder})" if encoder else "")),
        ("Codes", _kinds(facts)),
        ("Search beam", str(spec.get("beam", 1))),
        ("Fitted on", f"{text(manifest.get('rows'))} items"),
        ("Fit window", _window(record.fit_start_us, record.fit_end_us)),
        ("Codes assigned", _window(*facts.assigned_us) if facts.assigned_us else "–"),
        ("In this state since", _window(record.changed_at_us, record.changed_at_us)),
        ("Content hash", record.content_hash),
        ("Made with", ", ".join(f"{key} {value}" for key, value in manifest.get("libraries", {}).items()) or "–"),
    ]
    if manifest.get("parents"):
        entries.append(("Made from", text(manifest["parents"])))
    if facts.without_codes:
        entries.append(("Items without codes", f"{text(facts.without_codes)} (no content to encode)"))
    if facts.waiting:
        entries.append(("Awaiting a refresh", f"{text(facts.waiting)} rows of content have no codes yet"))
    return entries


def tree_note(facts: Facts, embedded: int) -> str:
    """Say what the tree contains and what it omits."""
    listed = len(facts.items)
    notes = [f"{text(listed)} items have codes."]
    if facts.without_codes:
        notes.append(f"{text(facts.without_codes)} without codes are not in the tree.")
    if facts.residual_levels == 0:
        notes.append(
            "The codes of this codebook do not refine each other, so the tree groups items by the first code only."
        )
    if embedded < listed:
        notes.append(
            f"Counts include all items. To limit the page size, {text(embedded)} items are included, those with the smallest "
            f"residuals of each branch first; {text(listed - embedded)} are omitted, and each leaf shows how many."
        )
    return " ".join(notes)


def collisions(facts: Facts) -> Collisions:
    """Return the largest shared codes with their items."""
    items = facts.items
    buckets, bucket_of, counts = np.unique(items.codes, axis=0, return_inverse=True, return_counts=True)
    shared = counts > 1
    largest = np.argsort(-counts, kind="stable")[: min(BUCKETS, int(shared.sum()))]
    by_bucket = np.argsort(bucket_of.ravel(), kind="stable")
    starts = np.cumsum(counts) - counts
    listed = []
    for bucket in largest:
        rows = by_bucket[starts[bucket] : starts[bucket] + min(int(counts[bucket]), BUCKET_ITEMS)]
        named = [_item(facts, int(row)) for row in rows]
        listed.append(SharedCode(buckets[bucket].tolist(), int(counts[bucket]), named))
    return Collisions(len(items), int(shared.sum()), int(counts[shared].sum()), listed)


def _item(facts: Facts, row: int) -> NamedItem:
    return NamedItem(
        facts.items.ids[row].as_py(),
        shortened(facts.items.titles[row].as_py()),
        facts.items.categories[row].as_py(),
    )


def map_note(facts: Facts, kept_spread: float) -> str:
    """Describe the map."""
    drawn = len(facts.sample.rows)
    sample = "all" if drawn == len(facts.items) else f"a sample of {text(drawn)} of {text(len(facts.items))}"
    return (
        f"Each dot is an item ({sample}), placed by the first two principal components of the encoder's vectors. They explain "
        f"{kept_spread:.0%} of the variance: items that look close may differ in the other components."
    )


def drift_note(facts: Facts, periods: list[Period]) -> str:
    """Summarize the drift since the fit."""
    after = facts.arrivals.moment_us > facts.record.fit_end_us
    if not after.any():
        return "No items have arrived after the fit."
    norm = facts.arrivals.residual_norm
    mean = float(norm[after].mean())
    change = f", {mean / float(norm[~after].mean()) - 1:+.1%} compared with items of the fit" if not after.all() else ""
    beyond = {
        late: [period.stability > period.chance for period in periods if period.after_fit == late]
        for late in (False, True)
    }
    during = f" (before it ended: {sum(beyond[False])} of {len(beyond[False])})" if beyond[False] else ""
    return (
        f"{text(int(after.sum()))} items arrived after the fit: their mean residual norm is {mean:.4f}{change}. In "
        f"{sum(beyond[True])} of {len(beyond[True])} periods after the fit{during} the first codes differ more than chance "
        "explains."
    )


def _kinds(facts: Facts) -> str:
    extra = facts.record.levels - facts.residual_levels
    levels = f"{facts.residual_levels} level{'s' * (facts.residual_levels != 1)}, each refining the one before"
    if facts.residual_levels == 0:
        return f"{extra} that do not refine each other"
    return f"{levels}; {extra} more that do not refine others" if extra else levels


def _sizes(facts: Facts) -> str:
    return "×".join(map(str, facts.record.sizes))


def _window(first_us: int, last_us: int) -> str:
    """Format two times to the minute, or one if they are equal."""
    minutes = dict.fromkeys(f"{from_us(micros):%Y-%m-%d %H:%M}" for micros in (first_us, last_us))
    return f"{' to '.join(minutes)} UTC"
