"""Parity of the profiles: the same tables, codes, training frame and online features as the profile ``local``.

    PYTHONPATH=tests python benchmarks/parity.py --data DATA... [--profiles spark production] [--work .work/parity]

Each data set gets a repository per profile, and every repository the same life: ingest, tables up to the end of the training
rows and then of the log, a codebook, its codes, the training frame, promotion, and materialization; with counts per user and
category, per user and item, and per prefix of codes. Then all cells are compared with those of ``local``
(:mod:`parity_compare`). Spark runs in local mode; Redis and Postgres are started for the run, and stopped. ``--impressions``
is the size of a generated data set, ``--rows`` caps the training rows of the frame, by user; ``--users`` keeps the events of
that many users of a folder, chosen by the hash of their ids, and all items.

Results go to ``benchmarks/results/parity.json``, one entry per data set and profile. A repository of ``local`` or ``spark``
that was interrupted resumes; a pair whose entry is in FOLDER is not compared again. Exits with 1 if a cell differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

from arms import ROOT, data_name
from audits import DEPTHS, count_more
from processes import in_a_process

from sidkit.core.engine import literal
from sidkit.core.files import read_json, write_json

RESULTS = ROOT / "benchmarks" / "results" / "parity.json"
PROFILES = ("spark", "production")
KINDS = ("tables", "codes", "frame", "online", "reads")
DESCRIBED = "life.json"


def with_users(data: str, users: int, folder: Path) -> str:
    """A source with the events of some users, and links to all other files; the data set itself if all are wanted."""
    import duckdb

    given = Path(data)
    if not users or not given.is_dir():
        return data
    source = folder / given.name
    if not source.exists():
        beside = source.with_name(f"{source.name}.writing")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for file in given.iterdir():
            (beside / file.name).symlink_to(file.resolve())
        log = beside / "interactions.parquet"
        log.unlink()
        with duckdb.connect() as opened:
            opened.execute("SET TimeZone = 'UTC'")
            rows = f"read_parquet({literal(given / log.name)})"
            users_kept = f"SELECT DISTINCT user_id FROM {rows} ORDER BY hash(user_id), user_id LIMIT {users}"
            opened.execute(f"COPY (FROM {rows} WHERE user_id IN ({users_kept})) TO {literal(log)} (FORMAT parquet)")
        beside.rename(source)
    return str(source)


def live(data: str, folder: Path, profile: str, options: argparse.Namespace) -> dict[str, Any]:
    """Give a repository its life, or the rest of it; returns what the comparison needs."""
    from ranking.data.caps import Caps
    from ranking.data.dataset import read_rows
    from ranking.data.split import TimeSplit
    from ranking.pipeline.prepare import Prepared, end_of_log, feature_inputs, prepare_repo
    from ranking.pipeline.presets import load_preset
    from semantic_ids import lifecycle
    from semantic_ids.catalog import Catalog
    from semantic_ids.code_stats import CodeStatsSpec
    from sidkit.core.artifact import read_manifest
    from sidkit.core.stages import StageResult, Stages
    from sidkit.profiles.switch import switch_profile
    from sidkit.stores.feast_repo import materialize
    from sidkit.tables.labelled_rows import log_moments

    repo = prepare_repo(data, folder)
    if profile == "spark":
        from helpers.spark_builders import on_spark

        repo = on_spark(repo)  # with settings for few rows
    else:
        switch_profile(repo, profile)
    repo = count_more(repo, data_name(data))
    spec = load_preset("rqkmeans").codebook.model_copy(update={"stats": CodeStatsSpec(depths=DEPTHS)})
    record, saved = repo.runs / "parity" / "stages.json", repo.runs / "parity" / "frame"
    with repo.locked():
        stages = Stages(record)
        prepared = Prepared(repo, stages, data, options.impressions)
        log = prepared.ingest()
        as_of_us = end_of_log(repo)
        split = TimeSplit.of(log_moments(repo), repo.settings.split)
        rows = prepared.rows(log)
        prepared.tables(log, split.train_end_us)
        # A stage of its own, so that the second build is an increment of the first.
        prepared = Prepared(repo, Stages(record.with_name("whole.json")), data, options.impressions)
        tables = prepared.tables(log, as_of_us)
        inputs = [log, tables.facts, split.train_end_us]
        codebook = prepared.codebook("parity", spec, split.train_end_us, inputs)
        labelled = read_rows(rows.files[0], context=tuple(repo.settings.features.context))
        frame_inputs = [*inputs, codebook, rows.facts, options.rows, *feature_inputs(repo.settings.features)]
        facts = prepared.frame(
            "frame", frame_inputs, codebook, labelled, split, Caps(options.rows, options.rows), saved
        ).facts
        if Catalog.open(repo).codebook(codebook).state != "serving":
            lifecycle.promote(repo, codebook)
        written = prepared.stages.run(
            "materialize", [codebook, tables.facts], lambda: StageResult(sum(materialize(repo, as_of_us).values()))
        )
    return {
        "codebook": codebook,
        "codebook_hash": read_manifest(repo.codebooks / codebook)["content_hash"],
        "service": Catalog.open(repo).codebook(codebook).service_name,
        "as_of_us": as_of_us,
        "online_keys": written.rows,
        "frame_rows": facts["parts"],
        "frame": str(saved),
    }


def compared(ours: Path, theirs: Path, lives: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare two repositories; returns the cells of each kind."""
    from parity_compare import Difference, compare_frames, compare_online, compare_reads, compare_tables

    from sidkit.core.repo import Repo

    pair = [Repo.open(path) for path in (ours, theirs)]
    life = lives[0]
    found: dict[str, Difference] = compare_tables(pair[0], pair[1], life["codebook"])
    found["frame"] = compare_frames(Path(life["frame"]), Path(lives[1]["frame"]))
    found["online"] = compare_online(pair[0], pair[1])
    found["reads"] = compare_reads(pair[0], pair[1], life["service"], life["as_of_us"])
    same = all(life[key] == lives[1][key] for key in ("codebook", "codebook_hash", "as_of_us", "online_keys"))
    return {
        "codebook_is_the_same": same,
        "frame_rows": life["frame_rows"],
        "kinds": {kind: asdict(found[kind]) for kind in KINDS},
    }


@contextlib.contextmanager
def services(profile: str) -> Iterator[dict[str, str]]:
    """The environment of a profile; servers of its own for ``production``."""
    if profile != "production":
        yield {}
        return
    from helpers.online_builders import redis_server
    from helpers.postgres import postgres_server
    from sidkit.profiles.production import POSTGRES, REDIS

    with tempfile.TemporaryDirectory(prefix="sidkit-redis-") as folder, contextlib.ExitStack() as running:
        address = running.enter_context(redis_server(Path(folder)))
        url = running.enter_context(postgres_server())
        yield {POSTGRES: url, REDIS: f"redis://{address}/0"}


def pair_of(data: str, profile: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compare the repositories of a data set under ``local`` and another profile."""
    folder = options.work / data_name(data)
    folder.mkdir(parents=True, exist_ok=True)
    data = with_users(data, options.users, folder / "source")
    ours, theirs = folder / "local", folder / profile
    local = in_a_process(live, data, ours, "local", options)
    if profile == "production":
        shutil.rmtree(theirs, ignore_errors=True)  # its servers are new
    with services(profile) as environment:
        os.environ.update(environment)
        other = in_a_process(live, data, theirs, profile, options)
        return in_a_process(compared, ours, theirs, [local, other])


def lines_of(results: dict[str, Any]) -> list[str]:
    """The rows of the page: cells that were compared, and how many differ."""
    lines = []
    for data, profiles in sorted(results.items()):
        for profile, found in sorted(profiles.items()):
            kinds = found["kinds"]
            cells = [f"{kinds[kind]['cells']:,}" if kind in kinds else "-" for kind in KINDS]
            users = found.get("users_at_most", 0)
            differing = sum(each["differing"] for each in kinds.values())
            lines.append(
                f"| `{data}`{f', {users} users' if users else ''} | `{profile}` | {' | '.join(cells)} | {differing:,} |"
            )
    return lines


def main() -> int:
    """Compare each data set and write the results; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--profiles", nargs="+", choices=PROFILES, default=list(PROFILES))
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "parity")
    parser.add_argument("--impressions", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=0, help="0: all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.work = options.work.resolve()
    differing = 0
    for data in options.data:
        for profile in options.profiles:
            entry = options.work / data_name(data) / f"{profile}.json"
            if not entry.exists():
                result = {
                    "rows_at_most": options.rows,
                    "users_at_most": options.users,
                    **pair_of(data, profile, options),
                }
                write_json(entry, result)
            result = json.loads(entry.read_text())
            known = read_json(options.out) if options.out.exists() else {}
            write_json(options.out, {**known, data_name(data): {**known.get(data_name(data), {}), profile: result}})
            for kind, cells in result["kinds"].items():
                print(f"{data_name(data)} {profile} {kind}: {cells['differing']} of {cells['cells']:,} cells differ")
                print(*(f"  {line}\n" for line in cells["where"]), sep="", end="", flush=True)
                differing += cells["differing"]
            differing += not result["codebook_is_the_same"]
    print("\n".join(lines_of(read_json(options.out) or {})))
    return int(differing > 0)


if __name__ == "__main__":
    raise SystemExit(main())
