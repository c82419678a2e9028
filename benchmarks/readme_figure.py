"""The figure of the README: gains over item ids on cold rows by arm, over three time origins, from a comparison.

sidkit ranker compare --data ../shared/data/ml_latest_small --repo .work/ml --json > .work/ml.json
python benchmarks/readme_figure.py .work/ml.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent.parent / "docs" / "assets" / "movielens.svg"
TITLE = "Gain in AUC over item ids alone, on cold items"
NAMES = {
    "id_codes_shuffled": "ids + shuffled codes",
    "gbdt": "gradient boosting",
    "id_codes": "ids + semantic IDs",
    "id_content": "ids + content vectors",
    "blend": "blend of the last two",
}
LEFT, RIGHT, TOP, STEP = 190, 640, 62, 34
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px }
  .note { font-size: 12px; fill: #57606a }
  .bar { fill: #8c959f } .own { fill: #0969da } .range { stroke: #24292f; stroke-width: 1.5 } .grid { stroke: #d0d7de }
  .zero { stroke: #8c959f }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .note { fill: #9198a1 } .range { stroke: #e6edf3 } .grid { stroke: #3d444d } .own { fill: #4493f8 }
  }
"""


def figure(comparison: dict[str, Any]) -> str:
    """The figure as SVG."""
    gains = sorted(
        (
            row
            for row in comparison["rows"]
            if (row["baseline"], row["slice"], row["metric"]) == ("id", "cold", "auc") and row["arm"] in NAMES
        ),
        key=lambda row: float(row["delta"]),
    )
    low, high = min(row["delta_low"] for row in gains) - 0.002, max(row["delta_high"] for row in gains) + 0.002

    def x(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (value - low) / (high - low)

    rows = comparison["slices"]["cold"]
    height = TOP + STEP * len(gains) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" role="img" aria-label="{TITLE}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="16" y="24">{TITLE}</text>',
        f'<text class="note" x="16" y="44">MovieLens latest-small, items with under 10 earlier ratings: {rows["rows"]:,} rows, '
        f"{rows['positives']:,} positives; 3 seeds, 95 % intervals</text>",
    ]
    for tick in (-0.02, -0.01, 0.0, 0.01, 0.02):
        if low <= tick <= high:
            kind = "zero" if tick == 0 else "grid"
            parts += [
                f'<line class="{kind}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{height - 26}"/>',
                f'<text class="note" text-anchor="middle" x="{x(tick):.1f}" y="{height - 10}">{tick:+.2f}</text>',
            ]
    for number, gain in enumerate(gains):
        y, name = TOP + STEP * number + STEP // 2, gain["arm"]
        parts += [
            f'<text text-anchor="end" x="{LEFT - 12}" y="{y + 5}">{NAMES[name]}</text>',
            f'<line class="range" x1="{x(gain["delta_low"]):.1f}" x2="{x(gain["delta_high"]):.1f}" y1="{y}" y2="{y}"/>',
            f'<circle class="{"own" if name == "id_codes" else "bar"}" cx="{x(gain["delta"]):.1f}" cy="{y}" r="6"/>',
            f'<text x="{RIGHT + 14}" y="{y + 5}">{gain["delta"]:+.4f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    OUT.write_text(figure(json.loads(Path(sys.argv[1]).read_text())))
    print(OUT)
