"""The passages of a report that need no script: what is told, listed and explained, as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from semantic_ids.report.facts import Facts
from semantic_ids.report.figures import figures, figures_now, text
from semantic_ids.report.periods import Period
from semantic_ids.report.tree import shortened
from sidkit.core.clock import from_us

BUCKETS = 20
"""At most so many shared codes are listed ..."""
BUCKET_ITEMS = 12
"""... with at most so many of their items."""


def summary(facts: Facts) -> str:
    """One line under the name."""
    record = facts.record
    return f"{record.quantizer} of {_sizes(facts)} codes on {record.encoder} vectors"


def tiles(facts: Facts) -> str:
    """The four figures at the top."""
    now = figures_now(facts)
    used = now.get("utilisation", [])
    shown = [
        (text(len(facts.items)), "items with codes"),
        (_sizes(facts), "codes per level"),
        (text(min(used), "share") if used else "–", "of codes used on the least used level"),
        (text(now.get("independent_code_rate"), "share"), "of items have a unique code"),
    ]
    return "".join(f"<li><b>{escape(figure)}</b> {escape(says)}</li>" for figure, says in shown)


def described(facts: Facts) -> str:
    """What the codebook is and when it was made, as entries of a list of terms."""
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
    ]  # fmt: skip
    if manifest.get("parents"):
        entries.append(("Made from", text(manifest["parents"])))
    if facts.without_codes:
        entries.append(("Items without codes", f"{text(facts.without_codes)} (no content to encode)"))
    if facts.waiting:
        entries.append(("Awaiting a refresh", f"{text(facts.waiting)} rows of content have no codes yet"))
    return "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(told)}</dd></div>" for term, told in entries)


def figure_rows(facts: Facts) -> str:
    """The table of figures."""
    return "".join(
        f'<tr><th scope="row">{escape(row.label)}</th><td data-of="at the fit">{escape(row.at_fit)}</td>'
        f'<td data-of="now">{escape(row.now)}</td><td class="says">{escape(row.says)}</td></tr>'
        for row in figures(facts)
    )


def tree_note(facts: Facts, embedded: int) -> str:
    """What the tree holds and what it leaves out."""
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


def collisions(facts: Facts) -> str:
    """The fullest shared codes with their items."""
    items = facts.items
    if len(items) == 0:
        return "<p>No item has codes.</p>"
    buckets, bucket_of, counts = np.unique(items.codes, axis=0, return_inverse=True, return_counts=True)
    shared = counts > 1
    if not shared.any():
        return "<p>No two items share a full code.</p>"
    largest = np.argsort(-counts, kind="stable")[: min(BUCKETS, int(shared.sum()))]
    by_bucket = np.argsort(bucket_of.ravel(), kind="stable")
    starts = np.cumsum(counts) - counts
    blocks = []
    for bucket in largest:
        rows = by_bucket[starts[bucket] : starts[bucket] + min(int(counts[bucket]), BUCKET_ITEMS)]
        named = [_item(facts, int(row)) for row in rows]
        more = int(counts[bucket]) - len(rows)
        left_out = f'<li class="more">and {text(more)} more</li>' if more else ""
        code = ", ".join(map(str, buckets[bucket].tolist()))
        blocks.append(
            f"<details><summary><code>{code}</code> <b>{text(int(counts[bucket]))} items</b> "
            f'<span class="examples">{named[0][0]}</span></summary>'
            f'<ul class="items">{"".join(f"<li>{title}{rest}</li>" for title, rest in named)}{left_out}</ul></details>'
        )
    told = (
        f"<p>{text(int(counts[shared].sum()))} items share {text(int(shared.sum()))} full codes with others; "
        f"{'the largest' if len(largest) < shared.sum() else 'all'} {len(largest)} are listed.</p>"
    )
    return told + "".join(blocks)


def _item(facts: Facts, row: int) -> tuple[str, str]:
    """An item's title and what else is known of it, as HTML."""
    identity = escape(facts.items.ids[row].as_py())
    title = shortened(facts.items.titles[row].as_py())
    category = facts.items.categories[row].as_py()
    chip = f' <span class="chip"><bdi>{escape(category)}</bdi></span>' if category else ""
    if title is None:
        return f'<span class="title untitled"><bdi>{identity}</bdi></span>', chip
    return f'<span class="title"><bdi>{escape(title)}</bdi></span>', f"{chip} <code><bdi>{identity}</bdi></code>"


def map_note(facts: Facts, kept_spread: float) -> str:
    """What the map shows."""
    drawn = len(facts.sample.rows)
    sample = "all" if drawn == len(facts.items) else f"a sample of {text(drawn)} of {text(len(facts.items))}"
    return (
        f"Each dot is an item ({sample}), placed by the first two principal components of the encoder's vectors. They explain "
        f"{kept_spread:.0%} of the variance: items that look close may differ in the other components."
    )


def drift_rows(periods: list[Period]) -> str:
    """The table behind the charts of drift."""
    return "".join(
        f'<tr><th scope="row">{escape(period.label)}</th><td>{"after" if period.after_fit else "before"}</td>'
        f"<td>{text(period.items)}</td><td>{period.residual_norm:.4f}</td>"
        f"<td>{period.stability:.3f}</td><td>{period.chance:.3f}</td></tr>"
        for period in periods
    )


def drift_note(facts: Facts, periods: list[Period]) -> str:
    """A one-sentence summary of the drift since the fit."""
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
    """Two times to the minute, or one if they are equal."""
    minutes = dict.fromkeys(f"{from_us(micros):%Y-%m-%d %H:%M}" for micros in (first_us, last_us))
    return f"{' to '.join(minutes)} UTC"
