"""``PYTHONPATH=tests python -m fuzz``: see :mod:`fuzz`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from .runner import KINDS, run, tasks
from .table import Table


def merged(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """What was found, with the kinds of an earlier run of the same seed that were not tried again."""
    before = json.loads(path.read_text()) if path.exists() else None
    if before is None or before["seed"] != found["seed"]:
        return found
    kept = {kind: counts for kind, counts in before["kinds"].items() if kind not in found["kinds"]}
    faults = [fault for fault in before["faults"] if fault["kind"] in kept]
    order = {kind: place for place, kind in enumerate(KINDS)}
    return {
        **found,
        "seconds": round(found["seconds"] + sum(counts["seconds"] for counts in kept.values()), 1),
        "kinds": dict(sorted({**kept, **found["kinds"]}.items(), key=lambda pair: order[pair[0]])),
        "faults": sorted([*faults, *found["faults"]], key=lambda fault: (fault["kind"], fault["case"])),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description="Try malformed inputs, damaged files and kills.")
    parser.add_argument("--seed", type=int, default=0, help="Decides every case.")
    parser.add_argument("--only", default="", help=f"Kinds, separated by commas: {', '.join(KINDS)}.")
    parser.add_argument("--count", type=int, help="Cases of each kind; by default all.")
    parser.add_argument("--case", type=int, help="This case alone.")
    parser.add_argument("--jobs", type=int, default=2, help="Workers.")
    parser.add_argument("--folder", type=Path, help="Where cases happen; by default a temporary folder.")
    parser.add_argument(
        "--out", type=Path, help="A JSON file for the table and its faults; kinds that are not tried are kept."
    )
    parser.add_argument("--verbose", action="store_true", help="Print every case.")
    asked = parser.parse_args()
    only = [kind for kind in asked.only.split(",") if kind]
    unknown = set(only) - set(KINDS)
    if unknown:
        parser.error(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    todo = tasks(only, asked.count, asked.case)
    table, began = Table(asked.seed), time.monotonic()
    for found in run(todo, asked.seed, 1 if asked.case is not None else asked.jobs, asked.folder):
        table.add(found)
        kind, index, verdict, seconds = found
        if verdict.bad or asked.verbose or asked.case is not None:
            why = "\n    ".join(verdict.why)
            print(f"{kind} {index}: {verdict.verdict} ({seconds:.1f} s)\n  {verdict.did}\n    {why}", flush=True)  # noqa: T201
    if asked.out:
        found = merged(table.as_json(time.monotonic() - began), asked.out)
        asked.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print("\n".join(table.lines()))  # noqa: T201
    return int(table.bad > 0)


if __name__ == "__main__":
    sys.exit(main())
