"""``PYTHONPATH=tests python -m fuzz``: see :mod:`fuzz`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from .runner import KINDS, run, tasks
from .table import Table


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description="Try malformed inputs, damaged files and kills.")
    parser.add_argument("--seed", type=int, default=0, help="Decides every case.")
    parser.add_argument("--only", default="", help=f"Kinds, separated by commas: {', '.join(KINDS)}.")
    parser.add_argument("--count", type=int, help="Cases of each kind; by default all.")
    parser.add_argument("--case", type=int, help="This case alone.")
    parser.add_argument("--jobs", type=int, default=2, help="Workers.")
    parser.add_argument("--folder", type=Path, help="Where cases happen; by default a temporary folder.")
    parser.add_argument("--out", type=Path, help="A JSON file for the table and its faults.")
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
        asked.out.write_text(json.dumps(table.as_json(time.monotonic() - began), indent=1, ensure_ascii=False) + "\n")
    print("\n".join(table.lines()))  # noqa: T201
    return int(table.bad > 0)


if __name__ == "__main__":
    sys.exit(main())
