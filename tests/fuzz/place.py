"""Where cases happen: a finished tiny repo with all its answers, and a copy of it that each case may ruin."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .processes import command, forked

PRESET = """\
[codebook]
sizes = [4, 4, 4]
[ranker]
serve = ["id", "id_codes"]
[ranker.model]
dim = 4
heads = 1
hidden = [8]
table_rows = 1000
[ranker.training]
epochs = 1
[arms.id]
representations = ["id"]
[arms.id_codes]
representations = ["id", "prefix_ngram"]
"""
USERS, ITEMS = 30, 100
ODD_ITEMS = {3: "a,b", 7: "with space", 11: "quo\"te's", 13: "ünï-日本", 17: "--items", 19: "semi;colon", 23: "%41\\n"}
"""Ids that are ordinary text in a log and special somewhere else."""
AT = "2024-03-02T00:00:00Z"
"""A moment after all events of the world."""
_TEXT = pa.string()


def item_name(number: int) -> str:
    """Item ids of four looks: ``i5``, ``8`` and ``008`` side by side, and odd ones."""
    if number in ODD_ITEMS:
        return ODD_ITEMS[number]
    return (f"i{number}", str(number), f"00{number - 1}", f"item_{number}")[number % 4 if number % 4 != 2 else 2]


def user_name(number: int) -> str:
    """User ids of three looks: ``u4``, ``2`` and ``002``."""
    return (f"u{number}", str(number + 1), f"00{number}")[number % 3]


@dataclass
class Answers:
    """What the undamaged repo says."""

    ranker: str
    codebook: str
    fit_end_us: int
    pool: list[dict[str, Any]]
    """Rows after ``fit_end``: ``user_id``, ``item_id``, ``at_us``, ``label``."""
    frame: list[dict[str, Any]]
    """The features of each row of the pool."""
    pool_scores: list[float]
    """The ranker's score of each row of the pool."""
    scores: dict[str, dict[str, float]]
    """User -> item -> what ``sidkit score`` says at ``AT``."""
    codes: dict[str, list[int]]
    ends_us: int
    """The last event."""


Marks = tuple[int, ...]
_FOLDERS = ("cwd", "out", "in", "tmp", "here", "here/deep")
_SENTINEL = "nobody writes here\n"
_TICK_SECONDS = 0.01
"""Longer than the step of the times that a file system notes: a later write has another time."""


def _marks(stat: os.stat_result) -> Marks:
    return stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@dataclass
class Place:
    """The folders of one worker: ``root`` holds all that cases may write."""

    folder: Path
    ready: Path | None = None
    """A finished repo that cases only read, in place of one of its own."""
    answers: Answers = field(init=False)
    _whole: dict[Path, Marks] = field(default_factory=dict)
    """File -> what told it apart when it was last made as it was."""

    @property
    def root(self) -> Path:
        return self.folder / "place"

    @property
    def repo(self) -> Path:
        return self.ready or self.root / "here" / "deep" / "repo"

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def preset(self) -> Path:
        return self.folder / "tiny.toml"

    @property
    def kept(self) -> Path:
        return self.folder / "kept"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    def make(self, *, finished: bool = True) -> None:
        """Make the repo and learn its answers; ``finished=False`` makes the folders only."""
        for folder in (self.root, self.kept):
            shutil.rmtree(folder, ignore_errors=True)
        self._whole.clear()
        self.restore(repo=False)
        self.preset.write_text(PRESET)
        if finished:
            forked(self._write_source, 120)
            self._run()
            shutil.copytree(self.repo, self.kept, copy_function=shutil.copy2)
        self.restore(repo=finished)
        if finished:
            self.answers = forked(self.learn, 120)
            self.restore()

    def restore(self, *, repo: bool = True) -> None:
        """Make all folders as they were; files that nothing wrote since the last call stay."""
        wanted: dict[Path, Path | None] = {self.root / name: None for name in _FOLDERS}
        files = {self.root / "here" / "sentinel.txt"}
        if repo:
            for origin in (self.kept, *self.kept.rglob("*")):
                path = self.repo / origin.relative_to(self.kept)
                wanted[path] = None if origin.is_dir() else origin
                files |= set() if origin.is_dir() else {path}
        found = sorted(self.root.rglob("*")) if self.root.is_dir() else []
        for path in reversed(found):
            is_folder = path.is_dir() and not path.is_symlink()
            known = path in files or path in wanted
            if known and is_folder == (path not in files):
                continue
            if is_folder:
                shutil.rmtree(path)
            else:
                path.unlink()
        copied = False
        for path in sorted({*wanted, *files}):
            if path not in files:
                path.mkdir(parents=True, exist_ok=True)
                if path.stat().st_mode & 0o700 != 0o700:
                    path.chmod(0o755)
                continue
            if path.exists() and self._whole.get(path) == _marks(path.lstat()):
                continue
            path.unlink(missing_ok=True)
            if (origin := wanted.get(path)) is not None:
                shutil.copy2(origin, path)
            else:
                path.write_text(_SENTINEL)
            self._whole[path] = _marks(path.lstat())
            copied = True
        if copied:
            time.sleep(_TICK_SECONDS)

    def changed(self) -> bool:
        """Whether the repo has other files than after the last :meth:`restore`."""
        found = {path: _marks(path.lstat()) for path in self.repo.rglob("*") if not path.is_dir()}
        return found != {path: marks for path, marks in self._whole.items() if path.is_relative_to(self.repo)}

    def command(self, *arguments: object, cpu: int = 30) -> Any:
        """``sidkit ARGUMENTS`` in a process of its own, in an empty working directory."""
        return command(*arguments, cwd=self.root / "cwd", tmp=self.tmp, cpu=cpu)

    def _run(self) -> None:
        done = self.command("init", self.repo, "--data", self.source)
        assert done.ok, done
        settings = self.repo / "sidkit.toml"
        settings.write_text(settings.read_text().replace("threads = 2", "threads = 1"))
        done = self.command(
            "run", "--json", "--data", self.source, "--repo", self.repo, "--preset", self.preset, cpu=200
        )
        assert done.ok, done

    def _write_source(self) -> None:
        from sidkit.datasets.synthetic import Sizes, write_world

        shutil.rmtree(self.source, ignore_errors=True)
        write_world(self.source, "strong", Sizes(3_000, USERS, ITEMS))
        (self.source / "oracle.parquet").unlink()
        for name in ("interactions", "items", "item_embeddings"):
            table = pq.read_table(self.source / f"{name}.parquet")
            for column, new_name in (("user_id", user_name), ("item_id", item_name)):
                if column in table.column_names:
                    new = [new_name(int(text[1:])) for text in table.column(column).to_pylist()]
                    table = table.set_column(table.column_names.index(column), column, pa.array(new, _TEXT))
            for column in ("text", "image"):
                if column in table.column_names and name == "item_embeddings":
                    short = [vector and vector[:6] for vector in table.column(column).to_pylist()]
                    table = table.set_column(
                        table.column_names.index(column), column, pa.array(short, pa.list_(pa.float32()))
                    )
            pq.write_table(table, self.source / f"{name}.parquet")

    def learn(self) -> Answers:
        """Ask the undamaged repo everything that cases compare with."""
        from ranking.data.dataset import read_rows
        from ranking.data.frame_builder import build_dataset
        from ranking.training.ranker import Ranker
        from semantic_ids.catalog import Catalog
        from semantic_ids.codebook import Codebook
        from sidkit.core.repo import Repo
        from sidkit.stores.feast_repo import open_store

        repo = Repo.open(self.repo)
        record = Catalog.open(repo).serving_ranker()
        log = pq.read_table(repo.labelled_rows, columns=["event_timestamp"]).column("event_timestamp")
        times = log.cast(pa.int64()).to_numpy()
        pool = draw_pool(max(record.fit_end_us, int(np.quantile(times, 0.9))), int(times.max()))
        path = self.folder / "pool.parquet"
        pq.write_table(pool_table(pool), path)
        out = self.folder / "pool_frame.parquet"
        done = self.command("frame", "--repo", self.repo, "--rows", path, "--out", out)
        assert done.ok, done
        rows = read_rows(path)
        rows = rows.take(np.arange(len(rows)))  # a copy: the file's own arrays cannot be written
        ranker = Ranker.load(repo.rankers / record.name)
        data = build_dataset(
            open_store(repo), record.service, Codebook.load(repo.codebooks / record.codebook), rows,
            rate=ranker.scaling.rate, history_length=ranker.config.history_length, schema=ranker.config.schema,
        )  # fmt: skip
        users, items = [user_name(n) for n in (0, 1, 2, 9)], [item_name(n) for n in range(ITEMS)]
        plain = [item for item in items if "," not in item]
        scores = {}
        for user in users:
            done = self.command(
                "score", "--repo", self.repo, "--user", user, "--items", ",".join(plain), "--at", AT, "--json"
            )
            assert done.ok, done
            scores[user] = {item: told_score(done.out, item) for item in plain}
        done = self.command("codebooks", "codes", "--repo", self.repo, "--items", ",".join(plain))
        assert done.ok, done
        codes = dict(line.rsplit("\t", 1) for line in done.out.splitlines())
        return Answers(
            ranker=record.name,
            codebook=record.codebook,
            fit_end_us=record.fit_end_us,
            pool=pool,
            frame=feature_rows(out),
            pool_scores=[float(score) for score in ranker.score(data)],
            scores=scores,
            codes={item: list(map(int, text.split(","))) for item, text in codes.items() if text != "no codes"},
            ends_us=int(times.max()),
        )


def told_score(out: str, item: str) -> float:
    """The score of an item in what ``sidkit score --json`` printed, whether a number or an object with one."""
    found = json.loads(out)["scores"][item]
    return float(found["score"] if isinstance(found, dict) else found)


def draw_pool(first_us: int, last_us: int) -> list[dict[str, Any]]:
    """Four hundred rows of known users and items."""
    import random

    draw = random.Random("pool")
    return [
        {
            "user_id": user_name(draw.randrange(USERS)), "item_id": item_name(draw.randrange(ITEMS)),
            "at_us": draw.randrange(first_us + 1, last_us), "label": int(draw.random() < 0.4),
        }
        for _ in range(400)
    ]  # fmt: skip


def pool_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of the pool in the types of the contract."""
    moments = pa.array([row["at_us"] for row in rows], pa.int64()).cast(pa.timestamp("us", "UTC"))
    return pa.table(
        {
            "user_id": pa.array([row["user_id"] for row in rows], _TEXT),
            "item_id": pa.array([row["item_id"] for row in rows], _TEXT),
            "event_timestamp": moments,
            "label": pa.array([row["label"] for row in rows], pa.int8()),
        }
    )


def feature_rows(path: Path) -> list[dict[str, Any]]:
    """The features of a frame, row by row: its columns with two underscores in their names."""
    table = pq.read_table(path)
    return table.select([name for name in table.column_names if "__" in name and not name.startswith("__")]).to_pylist()
