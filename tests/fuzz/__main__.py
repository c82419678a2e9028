"""``PYTHONPATH=tests python -m fuzz``: see :mod:`fuzz`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .parts import Parts
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
    parser.add_argument("--alone", action="store_true", help="No two cases share a process; slower.")
    parser.add_argument("--jobs", type=int, default=2, help="Workers.")
    parser.add_argument("--folder", type=Path, help="Where cases happen; by default a temporary folder.")
    parser.add_argument("--parts", type=Path, help="Folder of what was found so far: an interrupted run resumes there.")
    parser.add_argument("--any-commit", action="store_true", help="Take cases that other commits left there, too.")
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
    parts = Parts(asked.parts, asked.seed, any_commit=asked.any_commit)
    table = Table(asked.seed)
    known = {kind: parts.found(kind) for kind in dict(todo)} if asked.case is None else {}
    for kind, index in todo:
        if index in known.get(kind, {}):
            table.add(*known[kind][index])
    todo = [(kind, index) for kind, index in todo if index not in known.get(kind, {})]
    jobs = 1 if asked.case is not None else asked.jobs
    for found in run(todo, asked.seed, jobs, asked.folder, alone=asked.alone) if todo else ():
        table.add(found, parts.commit)
        parts.add(found)
        verdict = found.verdict
        if verdict.bad or asked.verbose or asked.case is not None:
            why = "\n    ".join(verdict.why)
            shown = f"{found.kind} {found.index}: {verdict.verdict} ({found.seconds:.1f} s)\n  {verdict.did}\n    {why}"
            print(shown.encode("utf-8", "backslashreplace").decode(), flush=True)  # noqa: T201
    if asked.out:
        whole = merged(table.as_json(), asked.out)
        asked.out.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    print("\n".join(table.lines()))  # noqa: T201
    return int(table.bad > 0)


if __name__ == "__main__":
    sys.exit(main())
