"""Flipped bits and cut files in a finished repo: every answer is as before, or an error names what to do."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from .outcome import CLEAR, RIGHT, TRACEBACK, Ran, Verdict, error_of
from .place import AT, Place, feature_rows, told_score

EDITED = (".py", ".toml", ".yaml", ".feastignore")
"""Files that people edit: a change there is theirs."""
CACHES = (
    "stages.json",
    "verdict.json",
    "hit_rate.json",
    "/frame/",
    "/predictions/",
    "checkpoint",
    "metrics.json",
    "defined.json",
)
_SAID = ("again", "anew", "discard", "rebuil", "damag", "made new")


def files(place: Place) -> list[Path]:
    """Every file of the finished repo but the lock, in an order that does not depend on names drawn from hashes."""
    found = [
        path for path in place.kept.rglob("*") if path.is_file() and path.name != ".sidkit.lock" and path.stat().st_size
    ]
    return sorted((path.relative_to(place.kept) for path in found), key=str)


def case(draw: random.Random, place: Place) -> Verdict:
    """Damage one file, then ask everything."""
    name = draw.choice(_weighted(files(place)))
    path = place.repo / name
    did = _damage(draw, path)
    verdict = Verdict(did=f"{name}: {did}")
    probes: list[Callable[[Verdict, Place, Path], None]] = [_score, _codes, _frame, _evaluate]
    draw.shuffle(probes)
    for probe in probes:
        probe(verdict, place, name)
    _write_again(draw, verdict, place, name)
    return verdict


def _weighted(names: list[Path]) -> list[Path]:
    """Files that hold data count four times."""
    return [name for name in names for _ in range(1 if name.suffix in EDITED or "rejects" in name.parts else 4)]


def _damage(draw: random.Random, path: Path) -> str:
    data = bytearray(path.read_bytes())
    kind = draw.random()
    if kind < 0.8:
        place = draw.randrange(len(data))
        if path.suffix == ".sqlite" and draw.random() < 0.7:  # much of such a file is empty
            place = draw.choice([n for n, byte in enumerate(data) if byte])
        bit = draw.randrange(8)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        return f"bit {bit} of byte {place} flipped"
    if kind < 0.88:
        path.write_bytes(data[: draw.randrange(len(data))])
        return f"cut to {path.stat().st_size} bytes"
    if kind < 0.94:
        path.write_bytes(b"")
        return "emptied"
    path.unlink()
    return "deleted"


def _ended(verdict: Verdict, ran: Ran, name: Path) -> bool:
    """Whether an answer came; an error has to name the file, its folder, or what it belongs to."""
    stem = name.stem.split("-")[0]
    names = [name.name, stem, name.parent.name, *_meant(name)]
    outcome, why = error_of(ran, names=names)
    if outcome != RIGHT:
        verdict.add(outcome, f"{' '.join(ran.arguments[:2])}: {why}")
    return outcome == RIGHT


def _meant(name: Path) -> list[str]:
    text = str(name)
    found = {
        "catalog": ["catalogue"],
        "registry": ["registry", "feature service", "sidkit apply"],
        "online": ["online store"],
        "log": ["data/log"],
        "sidkit.toml": ["sidkit"],
    }
    return [word for part, words in found.items() if part in text for word in words]


def _differs(verdict: Verdict, name: Path, what: str, ran: Ran | None = None) -> None:
    if name.suffix in EDITED or name.name in EDITED:
        verdict.add(RIGHT, "")
        return
    said = (ran.err + ran.out).lower() if ran else ""
    if not any(word in said for word in _SAID) or "frame" not in str(name):
        verdict.wrong(what)


def _score(verdict: Verdict, place: Place, name: Path, user: str | None = None) -> None:
    for user, right in list(place.answers.scores.items())[:2]:
        ran = place.command(
            "score", "--repo", place.repo, "--user", user, "--items", ",".join(right), "--at", AT, "--json"
        )
        if not _ended(verdict, ran, name):
            return
        try:
            got = {item: told_score(ran.out, item) for item in right}
        except (ValueError, KeyError) as error:
            verdict.add(TRACEBACK, f"score --json cannot be read: {error!r}")
            return
        # Another ranker may serve after the catalogue changed: that is another answer.
        wrong = [item for item in right if abs(got[item] - right[item]) > 1e-6]
        if wrong:
            _differs(
                verdict,
                name,
                f"score of {wrong[0]!r} for {user!r}: {got[wrong[0]]}, right is {right[wrong[0]]}; {len(wrong)} differ",
                ran,
            )


def _codes(verdict: Verdict, place: Place, name: Path) -> None:
    items = list(place.answers.codes)
    ran = place.command("codebooks", "codes", "--repo", place.repo, "--items", ",".join(items))
    if _ended(verdict, ran, name):
        right = [f"{item}\t{','.join(map(str, codes))}" for item, codes in place.answers.codes.items()]
        got = ran.out.splitlines()
        if got != right:
            wrong = next((pair for pair in zip(got, right, strict=False) if pair[0] != pair[1]), ("nothing", right[0]))
            _differs(verdict, name, f"codes {wrong[0]!r}, right are {wrong[1]!r}", ran)


def _frame(verdict: Verdict, place: Place, name: Path) -> None:
    out = place.root / "out" / "frame.parquet"
    out.unlink(missing_ok=True)
    ran = place.command("frame", "--repo", place.repo, "--rows", place.folder / "pool.parquet", "--out", out)
    if _ended(verdict, ran, name):
        _compare(verdict, place, name, out, "frame", ran)


def _compare(verdict: Verdict, place: Place, name: Path, out: Path, what: str, ran: Ran) -> None:
    got = feature_rows(out)
    # Codes that are made again are assigned at another moment of the clock.
    own = {"item_sid__assigned_at_us"} if name.name.startswith("item_sid_") else set()
    wrong = [
        (n, column)
        for n, row in enumerate(place.answers.frame)
        for column in row.keys() - own
        if got[n].get(column) != row[column]
    ]
    if wrong:
        n, column = wrong[0]
        cells = f"{got[n].get(column)!r:.80}, right is {place.answers.frame[n][column]!r:.80}"
        _differs(verdict, name, f"{what}: {len(wrong)} cells differ: {column} {cells}", ran)


def _evaluate(verdict: Verdict, place: Place, name: Path) -> None:
    from .oracle import auc

    ran = place.command(
        "ranker",
        "evaluate",
        place.answers.ranker,
        "--repo",
        place.repo,
        "--rows",
        place.folder / "pool.parquet",
        "--json",
    )
    if _ended(verdict, ran, name):
        right = auc([row["label"] for row in place.answers.pool], place.answers.pool_scores)
        got = json.loads(ran.out)["slices"]["all"]["auc"]
        if got is None or right is None or abs(got - right) > 1e-4:
            _differs(verdict, name, f"AUC {got}, right is {right}", ran)


def _write_again(draw: random.Random, verdict: Verdict, place: Place, name: Path) -> None:
    """The daily commands on the damaged repo: what they write must be as if nothing had been damaged."""
    kind = draw.choice(("build", "rebuild", "run", "materialize"))
    if kind == "run":
        ran = place.command(
            "run", "--json", "--data", place.source, "--repo", place.repo, "--preset", place.preset, cpu=60
        )
        _ended(verdict, ran, name)
    elif kind == "materialize":
        if _ended(verdict, place.command("data", "ingest", "--repo", place.repo), name):
            _ended(verdict, place.command("materialize", "--repo", place.repo), name)
    else:
        if kind == "rebuild":
            ran = place.command("tables", "build", "--repo", place.repo, "--as-of", AT, "--rebuild")
        else:
            ran = place.command("tables", "build", "--repo", place.repo, "--as-of", AT)
        if not _ended(verdict, ran, name):
            return
    if verdict.verdict == RIGHT or verdict.verdict == CLEAR:
        out = place.root / "out" / "again.parquet"
        ran = place.command("frame", "--repo", place.repo, "--rows", place.folder / "pool.parquet", "--out", out)
        if _ended(verdict, ran, name):
            _compare(verdict, place, name, out, f"frame after {kind}", ran)
        if kind in {"run", "materialize"}:
            _score(verdict, place, name)
