"""The table of outcomes, printed and as JSON."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from .outcome import VERDICTS
from .runner import KINDS, Found


class Table:
    """What was found so far."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._counts: dict[str, Counter[str]] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._cpu: defaultdict[str, float] = defaultdict(float)
        self._faults: list[dict[str, Any]] = []
        self._commits: dict[str, Counter[str]] = {}
        self._only_shared: dict[str, list[int]] = {}

    def add(self, found: Found, commit: str) -> None:
        """Count one case, tried at a commit."""
        kind, index, verdict = found.kind, found.index, found.verdict
        self._counts.setdefault(kind, Counter())[verdict.verdict] += 1
        self._commits.setdefault(kind, Counter())[commit] += 1
        self._seconds[kind] += found.seconds
        self._cpu[kind] += found.cpu
        if found.again and not verdict.bad:
            self._only_shared.setdefault(kind, []).append(index)
        if verdict.bad:
            self._faults.append(
                {
                    "kind": kind, "case": index, "verdict": verdict.verdict, "did": verdict.did, "why": verdict.why,
                    "again": f"PYTHONPATH=tests python -m fuzz --seed {self.seed} --only {kind} --case {index}",
                }
            )  # fmt: skip

    @property
    def bad(self) -> int:
        """Cases with a traceback or a wrong answer."""
        return len(self._faults)

    def lines(self) -> Iterable[str]:
        """The table as text."""
        yield f"{'kind':<12}{'tried':>8}" + "".join(f"{name:>13}" for name in VERDICTS) + "  CPU s per case"
        for kind in KINDS:
            if kind in self._counts:
                counts = self._counts[kind]
                each = self._cpu[kind] / counts.total()
                yield (
                    f"{kind:<12}{counts.total():>8}"
                    + "".join(f"{counts[name]:>13}" for name in VERDICTS)
                    + f"{each:>16.3f}"
                )
        total = sum(self._counts.values(), Counter[str]())
        yield f"{'all':<12}{total.total():>8}" + "".join(f"{total[name]:>13}" for name in VERDICTS)

    def as_json(self) -> dict[str, Any]:
        """The table with its faults; ``seconds`` are those of all workers together."""
        return {
            "seed": self.seed,
            "seconds": round(sum(self._seconds.values()), 1),
            "kinds": {
                kind: {"tried": counts.total(), **{name: counts[name] for name in VERDICTS},
                "seconds": round(self._seconds[kind], 1), "commits": dict(self._commits[kind]),
                "wrong only after others in one process": sorted(self._only_shared.get(kind, []))}
                for kind, counts in self._counts.items()
            },
            "faults": sorted(self._faults, key=lambda fault: (fault["kind"], fault["case"])),
        }  # fmt: skip
