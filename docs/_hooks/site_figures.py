"""Bars with intervals, drawn from ``figure`` blocks of a page.

The first line of a block is the caption. Every further line is ``label | value`` or ``label | value | low | high``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape

_BLOCK = re.compile(r"^```figure\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Bar:
    """A labelled value with its interval; ``text`` is the value as written."""

    label: str
    text: str
    value: float
    low: float
    high: float


def with_figures(markdown: str) -> str:
    """Replace each ``figure`` block of a page by HTML."""
    return _BLOCK.sub(lambda block: _figure(*parse(block.group(1))), markdown)


def parse(text: str) -> tuple[str, list[Bar]]:
    """The caption and the bars of a block.

    Raises
    ------
    ValueError
        When a line has no value, or an interval with one end.
    """
    caption, *lines = text.strip().splitlines()
    return caption.strip(), [_bar(line) for line in lines]


def _bar(line: str) -> Bar:
    label, *numbers = (part.strip() for part in line.split("|"))
    if len(numbers) not in {1, 3}:
        raise ValueError(f"expected 'label | value' or 'label | value | low | high' in a figure, got {line!r}")
    value, *ends = (float(number.replace(",", "")) for number in numbers)
    low, high = ends or (value, value)
    return Bar(label, numbers[0], value, low, high)


def _figure(caption: str, bars: list[Bar]) -> str:
    start = min(0.0, *(bar.low for bar in bars))
    width = max(0.0, *(bar.high for bar in bars)) - start or 1.0

    def place(left: float, right: float) -> str:
        return f"left:{(left - start) / width:.2%};width:{(right - left) / width:.2%}"

    rows = "".join(
        f'<div class="sid-row"><span class="sid-label">{escape(bar.label)}</span><span class="sid-track">'
        f'<i style="{place(min(bar.value, 0), max(bar.value, 0))}"></i>'
        + (f'<b style="{place(bar.low, bar.high)}"></b>' if bar.high > bar.low else "")
        + f'</span><span class="sid-value">{escape(bar.text)}</span></div>'
        for bar in bars
    )
    return f'<figure class="sid-figure"><figcaption>{escape(caption)}</figcaption>{rows}</figure>'
