"""The figure of the README: AUC on cold rows by arm, from the verdict of a run.

sidkit run --data ../shared/data/ml_latest_small --repo .work/ml --seeds 3
python benchmarks/readme_figure.py .work/ml/artifacts/runs/rqkmeans/verdict.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent.parent / "docs" / "assets" / "movielens.svg"
NAMES = {
    "id": "item ids alone",
    "shuffled_codes": "ids + shuffled codes",
    "gbdt": "gradient boosting",
    "id_codes": "ids + semantic IDs",
    "content": "content vectors",
}
LEFT, RIGHT, TOP, STEP = 190, 640, 62, 34
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 15px }
  .note { font-size: 12px; fill: #57606a }
  .bar { fill: #8c959f } .own { fill: #0969da } .range { stroke: #24292f; stroke-width: 1.5 } .grid { stroke: #d0d7de }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .note { fill: #9198a1 } .range { stroke: #e6edf3 } .grid { stroke: #3d444d } .own { fill: #4493f8 }
  }
"""


def figure(verdict: dict[str, Any]) -> str:
    """The figure as SVG."""
    arms = sorted(
        ((name, slices["cold"]) for name, slices in verdict["arms"].items()), key=lambda pair: float(pair[1]["auc"])
    )
    ends = [end for _, cold in arms for end in cold["auc_interval"]]
    low, high = min(ends) - 0.005, max(ends) + 0.005

    def x(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (value - low) / (high - low)

    rows = verdict["rows"]["cold"]
    height = TOP + STEP * len(arms) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" role="img" aria-label="AUC on cold items by arm">',
        f"<style>{STYLE}</style>",
        '<text class="title" x="16" y="24">AUC on cold items of MovieLens latest-small</text>',
        f'<text class="note" x="16" y="44">items with under 10 earlier ratings: {rows["rows"]:,} test rows, '
        f"{rows['positives']:,} positives; 3 seeds; lines: 95 % intervals over users</text>",
    ]
    ticks = [tick / 100 for tick in range(100) if low <= tick / 100 <= high]
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{height - 26}"/>')
        parts.append(f'<text class="note" text-anchor="middle" x="{x(tick):.1f}" y="{height - 10}">{tick:.2f}</text>')
    for number, (name, cold) in enumerate(arms):
        y = TOP + STEP * number + STEP // 2
        first, last = cold["auc_interval"]
        parts += [
            f'<text text-anchor="end" x="{LEFT - 12}" y="{y + 5}">{NAMES[name]}</text>',
            f'<line class="range" x1="{x(first):.1f}" x2="{x(last):.1f}" y1="{y}" y2="{y}"/>',
            f'<circle class="{"own" if name == "id_codes" else "bar"}" cx="{x(cold["auc"]):.1f}" cy="{y}" r="6"/>',
            f'<text x="{RIGHT + 14}" y="{y + 5}">{cold["auc"]:.4f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    OUT.write_text(figure(json.loads(Path(sys.argv[1]).read_text())))
    print(OUT)
