"""A life of a small repo as command lines, one after the other: what kills are tried on, and what comes before each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.builders import DAY, START, fresh_repo
from helpers.codebook_builders import AS_OF, CUT, ITEMS, write_source
from helpers.places import PRESETS
from helpers.pretrained_builders import TITLES, write_items
from oracle.features import Event
from semantic_ids.pretrained.cache import Missing, Vectors
from sidkit.core.clock import iso
from sidkit.core.repo import Repo

CLICKS = [
    Event(f"u{user:02d}", f"i{item:03d}", START + 16 * DAY + (40 * user + item) * 1_000_000, 1)
    for user in range(24)
    for item in range(user % 5, 30, 5)
]
"""Five groups of users, each with items of its own."""
SHOP = "data/shop"
"""Where the items lie that are embedded."""


@dataclass(frozen=True)
class Step:
    """One command: its arguments without ``--repo``, what comes before it, and at how many points to kill it in CI.

    ``make kill-storm`` kills it at all.
    """

    name: str
    arguments: tuple[object, ...]
    before: Callable[[Repo], None] | None = None
    most: int = 2

    @property
    def command(self) -> str:
        """Its name on the command line."""
        return " ".join(map(str, self.arguments[: 2 if self.arguments[0] in {"data", "tables", "codebooks"} else 1]))

    def line(self, repo: Repo) -> list[object]:
        """All arguments of ``sidkit``."""
        if self.command == "data embed":
            return [*self.arguments, repo.path / SHOP, "--text", repo.path]
        out = ["--out", repo.path / "report.html"] if self.command == "codebooks report" else []
        return [*self.arguments, *out, "--repo", repo.path]


def source(**changes: Any) -> Callable[[Repo], None]:
    """Let the source say something else."""
    items: Mapping[str, int] = changes.pop("items", ITEMS)
    return lambda repo: write_source(repo.path.parent / "source", items, clicks=CLICKS, **changes) and None


def lines(*commands: Sequence[object], then: Callable[[Repo], None] | None = None) -> Callable[[Repo], None]:
    """Run commands undisturbed."""

    def run(repo: Repo) -> None:
        from helpers.life_state import command

        if then:
            then(repo)
        for arguments in commands:
            told = repo.path.parent / "told.txt"
            assert command([*arguments, "--repo", repo.path], told) == 0, told.read_text()

    return run


def fit(name: str, kind: str, end_us: int = CUT, preset: str = "tiny") -> tuple[object, ...]:
    path = PRESETS / f"{preset}_{kind}.toml"
    return ("codebooks", "fit", name, "--preset", path, "--fit-end", iso(end_us), "--force")


def life_of(kind: str) -> list[Step]:
    """The steps in which codes of a kind are made and follow content."""
    return [
        Step(f"fit {kind}", fit(kind, kind)),
        Step(f"publish {kind}", ("codebooks", "publish", kind)),
        Step(
            f"refresh {kind}", ("codebooks", "refresh", kind),
            before=lines(("data", "ingest"), ("tables", "build", "--as-of", iso(AS_OF + 3 * DAY)), then=source(
                items={**ITEMS, "late": AS_OF, f"later_{kind}": AS_OF}, edition={"i005": len(kind)}
            )),
        ),
    ]  # fmt: skip


MORE, MORE_TITLES = {**ITEMS, "late": AS_OF}, {**TITLES, "new": "a new title"}
SOME, MANY = 3, 5
"""Kills of the steps that leave the most behind."""
STEPS = [
    Step("ingest", ("data", "ingest")),
    Step("build", ("tables", "build", "--as-of", iso(AS_OF))),
    Step("rows", ("tables", "rows")),
    Step("apply", ("apply",)),
    Step("materialize", ("materialize",)),
    Step("embed", ("data", "embed")),
    Step("embed more", ("data", "embed"), lambda repo: write_items(repo.path / SHOP, MORE_TITLES) and None),
    Step(
        "fit", fit("new", "rqkmeans", CUT + DAY),
        lines(fit("old", "rqkmeans"), ("codebooks", "publish", "old"), ("codebooks", "promote", "old")), most=SOME,
    ),
    Step("publish", ("codebooks", "publish", "new"), most=MANY),
    Step("promote", ("codebooks", "promote", "new"), most=SOME),
    Step("retire", ("codebooks", "retire", "old")),
    Step("suffixes", ("codebooks", "suffixes", "new")),
    Step("report", ("codebooks", "report", "new")),
    Step("ingest more", ("data", "ingest"), source(items=MORE, edition={"i003": 1})),
    Step("build more", ("tables", "build", "--as-of", iso(AS_OF + DAY))),
    Step("refresh", ("codebooks", "refresh"), most=SOME),
    Step("suffixes of more", ("codebooks", "suffixes", "new")),
    Step(
        "rebuild", ("tables", "build", "--as-of", iso(AS_OF + 2 * DAY), "--rebuild"),
        lines(("data", "ingest"), then=source(items=MORE, edition={"i004": 1})),
    ),
    Step("refresh after a rebuild", ("codebooks", "refresh", "new")),
    Step("purge", ("codebooks", "purge", "old"), lines(("codebooks", "suffixes", "old")), most=MANY),
    Step("forget", ("forget", "--user", "u03"), lines(("tables", "rows"), ("materialize",)), most=SOME),
    *life_of("saviorrec"),
    *life_of("smile"),
]  # fmt: skip


def begin(folder: Path) -> Repo:
    """A fresh repo on a source, with items to embed."""
    write_source(folder / "source", ITEMS, clicks=CLICKS)
    repo = fresh_repo(folder / "repo", folder / "source", modalities=("text", "image"))
    write_items(repo.path / SHOP, dict(TITLES))
    return repo


class HashedTexts:
    """A text model of no size: in place of :class:`semantic_ids.pretrained.text.TextEmbedder`."""

    group = 3
    loose = False

    def __init__(self, spec: Any) -> None:
        self.folder = spec.model
        self.identity = {"kind": "text", "model": "hashed"}

    def columns(self, found: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in found if name == "title")

    def contents(self, rows: Any) -> list[str | Missing]:
        return [text or Missing("no text") for text in rows.column("title").to_pylist()]

    def key(self, content: str) -> bytes:
        return hashlib.sha256(content.encode()).digest()

    def vectors(self, contents: Sequence[str], keys: Sequence[bytes]) -> Vectors:
        matrix = np.stack([np.frombuffer(key[:4], np.uint8).astype(np.float32) for key in keys])
        return Vectors(matrix, np.zeros(len(keys), dtype=bool), [None] * len(keys))
