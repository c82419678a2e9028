"""Make the frozen repo: a small finished repo, as one version of the package writes it, and what that version read from it.

It was made once per format, with the package of that time; never make an existing one anew with a later package::

    python tests/frozen/make_frozen_repo.py tests/frozen/v1

``v1`` is commit a02ab9a, the last one whose manifests hold no hashes. The script uses the command line and the files' standard
formats only, so that it runs with any version.

``repo.tar.xz`` holds ``repo/`` (log of two parts, rejects, tables, labelled rows, catalogue, registry, online store, codebook,
two rankers, a run of ``frozen.toml`` with its frame, predictions and verdict) and ``source/``; ``expected.json`` holds codes,
scores, the verdict, and a part of a point-in-time frame.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
IMPRESSIONS = 5_000
FIRST_PART = 3_500
FRAME_ROWS = 12


def make(out: Path) -> None:
    """Write ``repo.tar.xz`` and ``expected.json`` into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        shutil.copy(HERE / "frozen.toml", root / "frozen.toml")
        _make_repo(root)
        expected = _ask(root)
        for lock in root.rglob(".sidkit.lock"):
            lock.unlink()
        out.mkdir(parents=True, exist_ok=True)
        with tarfile.open(out / "repo.tar.xz", "w:xz", preset=9) as archive:
            names = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
            for name in sorted(
                name for name in names if name.parts[0] in {"repo", "source"} and "tmp" not in name.parts
            ):
                archive.add(root / name, name.as_posix(), filter=_anonymous)
        text = json.dumps(expected, sort_keys=True, separators=(",", ":")) + "\n"
        (out / "expected.json").write_text(text, encoding="utf-8")


def _make_repo(root: Path) -> None:
    source = root / "source"
    _sidkit(root, "data", "synthetic", source, "--impressions", IMPRESSIONS, "--items", 100, "--users", 60)
    for extra in source.iterdir():
        if extra.stem not in {"interactions", "items", "item_embeddings"}:
            extra.unlink()
    # A few rows that break the contract, so that there are rejects.
    log = pq.read_table(source / "interactions.parquet")
    bad = log.slice(0, 5).set_column(
        log.column_names.index("item_id"), "item_id", pa.array(["no such item"] * 5, log.schema.field("item_id").type)
    )
    pq.write_table(pa.concat_tables([bad, log.slice(0, FIRST_PART)]), source / "interactions.parquet")
    _sidkit(root, "init", root / "repo", "--data", source)
    settings = root / "repo" / "sidkit.toml"
    settings.write_text(settings.read_text().replace("threads = 2", "threads = 1"))
    _sidkit(root, "data", "ingest", "--repo", root / "repo")
    pq.write_table(pa.concat_tables([bad, log]), source / "interactions.parquet")
    _sidkit(root, "run", "--data", source, "--repo", root / "repo", "--preset", root / "frozen.toml", "--json")


def _ask(root: Path) -> dict[str, Any]:
    """What the package reads from the repo it made."""
    repo = root / "repo"
    log = pq.read_table(root / "source" / "interactions.parquet")
    rows = log.slice(len(log) - FRAME_ROWS, FRAME_ROWS).select(["user_id", "item_id", "timestamp"])
    rows = rows.rename_columns(["user_id", "item_id", "event_timestamp"])
    pq.write_table(rows, root / "asked.parquet")
    _sidkit(root, "frame", "--repo", repo, "--rows", root / "asked.parquet", "--out", root / "frame.parquet")
    frame = pq.read_table(root / "frame.parquet").to_pylist()
    for name in ("asked.parquet", "frame.parquet"):
        (root / name).unlink()
    run = repo / "artifacts" / "runs" / "frozen"
    stages = json.loads((run / "stages.json").read_text())
    codebook = stages["codebook"]["facts"]["name"]
    codes = pq.read_table(repo / "data" / "tables" / f"item_sid_{codebook}.parquet", columns=["item_id", "codes"])
    items = sorted(set(rows.column("item_id").to_pylist()))
    asked = {
        "user": rows.column("user_id")[-1].as_py(),
        "items": items,
        # The first whole second at which everything that was materialized could be read.
        "at": datetime.fromtimestamp(-(-int(stages["tables"]["facts"]["as_of_us"]) // 1_000_000), UTC).isoformat(),
    }
    scores = _sidkit(
        root,
        "score",
        "--repo",
        repo,
        "--user",
        asked["user"],
        "--items",
        ",".join(items),
        "--at",
        asked["at"],
        "--json",
    )
    return {
        **asked,
        "codebook": codebook,
        "scores": json.loads(scores),
        "codes": dict(zip(codes["item_id"].to_pylist(), codes["codes"].to_pylist(), strict=True)),
        "verdict": json.loads((run / "verdict.json").read_text()),
        "frame": [
            {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
            for row in frame
        ],
    }


def _sidkit(root: Path, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sidkit", *map(str, arguments)], cwd=root, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    make(Path(sys.argv[1]).resolve())
