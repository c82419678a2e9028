"""Every command on a repo outside the clone, from another working directory, under another TZ.

Those that import a repo's definitions or serve from it run in a process of their own, the others in this one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import FAST_PRESET, FinishedJob, copy_of, forked_sidkit, reseal, sidkit
from helpers.commands import ask_well, time_zone
from helpers.switched import switched
from semantic_ids.catalog import Catalog
from sidkit.core.clock import iso
from sidkit.core.repo import Repo
from sidkit.tables.builder import TABLES

ZONE = {"TZ": "Asia/Kathmandu"}


@pytest.fixture
def abroad(elsewhere: Path) -> Iterator[Path]:
    """Another working directory, and another TZ for this process too."""
    with time_zone(ZONE["TZ"]):
        yield elsewhere


def test_a_repo_lives_through_all_commands(tmp_path: Path, abroad: Path) -> None:
    source, path = tmp_path / "world", tmp_path / "repo"

    def run(*arguments: object, expect: int = 0) -> str:
        done = ask_well(*arguments, expect=expect)
        assert "Traceback" not in done.err
        return done.out if expect == 0 else done.err

    size = ("--impressions", 7_200, "--users", 72, "--items", 200)
    assert "7,200 impressions" in run("data", "synthetic", source, "--world", "weak", *size, "--seed", 3)
    assert "the source is valid" in run("data", "check", source)
    assert "created a sidkit repository" in run("init", path, "--data", source)
    repo = Repo.open(path)
    assert repo.settings.source.conversions
    assert "7,200 new rows" in run("data", "ingest", "--repo", path)
    assert "the source is unchanged" in run("data", "ingest", "--repo", path)
    moment = "2024-03-01T05:45:00+05:45"
    built = run("tables", "build", "--repo", path, "--as-of", moment)
    assert all(name in built for name in TABLES) and "2024-03-01T00:00:00+00:00" in built
    assert "7,200 rows, 0 of them sampled" in run("tables", "rows", "--repo", path)
    early = run("materialize", "--repo", path, expect=1)
    assert "nothing to materialize" in early and f"run `sidkit apply --repo {path}` first" in early
    # Feast tells a store's own steps where the store plans them, and that it asks it otherwise.
    deployed = (
        "Created sqlite table sidkit_item_stats"
        if "online" in switched()
        else "Deploying infrastructure for item_stats"
    )
    applied = sidkit("apply", "--repo", path, cwd=abroad, **ZONE)
    assert deployed in applied.stdout and "Traceback" not in applied.stderr

    assert "no codebook named 'a'" in run("codebooks", "publish", "a", "--repo", path, expect=1)
    fitted = run(
        "codebooks", "fit", "a", "--repo", path, "--preset", FAST_PRESET, "--fit-end", "2024-02-01T00:00:00Z", "--force"
    )
    assert "a: fitted" in fitted and "to 2024-02-01T00:00:00+00:00" in fitted
    assert "is 'fitted': publish it before" in run("codebooks", "promote", "a", "--repo", path, expect=1)
    assert "rows of codes" in run("codebooks", "publish", "a", "--repo", path)
    assert "a is serving" in run("codebooks", "promote", "a", "--repo", path)
    run("codebooks", "fit", "b", "--repo", path, "--preset", FAST_PRESET, "--force")
    run("codebooks", "publish", "b", "--repo", path)
    assert "promote another codebook first" in run("codebooks", "retire", "a", "--repo", path, expect=1)
    run("codebooks", "promote", "b", "--repo", path)
    listed = run("codebooks", "list", "--repo", path)
    assert "published" in listed and "serving" in listed
    assert (
        json.loads("{" + run("codebooks", "show", "b", "--repo", path).split("{", 1)[1].rsplit("}", 1)[0] + "}")[
            "items"
        ]
        > 100
    )
    found = run("codebooks", "codes", "--items", "i1,i2,nothing", "--repo", path)
    assert found.splitlines()[2] == "nothing\tno codes"
    prefix = found.splitlines()[0].split("\t")[1].split(",")[0]
    assert "i1\t" in run("codebooks", "items", "--codes", prefix, "--most", 1000, "--repo", path)

    assert "item_sid_b:" in forked_sidkit("materialize", "--repo", path, cwd=abroad, **ZONE).stdout
    later = run("tables", "build", "--repo", path, "--as-of", "2024-03-05T00:00:00Z")
    assert "item_content" in later
    assert "expected --as-of no later than the tables" in run(
        "materialize", "--repo", path, "--as-of", "2025-01-01T00:00:00Z", expect=1
    )
    assert "b: 200 rows, 0 new" in run("codebooks", "refresh", "--repo", path)
    rows = pq.read_table(path / "data" / "rows.parquet").slice(6_000, 500)
    pq.write_table(rows, tmp_path / "rows.parquet")
    assert "500 rows" in run(
        "frame", "--repo", path, "--rows", tmp_path / "rows.parquet", "--out", tmp_path / "frame.parquet"
    )
    frame = pq.read_table(tmp_path / "frame.parquet")
    assert frame.column_names[: len(rows.column_names)] == rows.column_names
    assert frame.select(rows.column_names).equals(rows)
    assert "available: codes_a, codes_b, ctr_a" in run(
        "frame",
        "--repo",
        path,
        "--rows",
        tmp_path / "rows.parquet",
        "--out",
        tmp_path / "x.parquet",
        "--service",
        "no",
        expect=1,
    )
    assert "a is retired" in run("codebooks", "retire", "a", "--repo", path)
    assert "a is purged" in run("codebooks", "purge", "a", "--repo", path)
    assert not (path / "artifacts" / "codebooks" / "a").exists()
    assert "never overwritten" in run(
        "codebooks", "fit", "a", "--repo", path, "--preset", FAST_PRESET, "--force", expect=1
    )
    assert "no ranker named" in run("ranker", "promote", "none", "--repo", path, expect=1)


def test_the_commands_of_rankers(
    finished: FinishedJob, tmp_path: Path, abroad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = copy_of(finished.repo, tmp_path / "repo")
    monkeypatch.setenv("COLUMNS", "300")
    listed = ask_well("ranker", "list", "--repo", repo.path).out
    assert listed.count("fast_") >= 3 and "serving" in listed
    names = [Path(paths[0]).name for paths in finished.output["artifacts"]["rankers"].values() if paths]
    ask_well("ranker", "promote", names[0], "--repo", repo.path)
    told = json.loads(
        sidkit("score", "--repo", repo.path, "--user", "u1", "--items", "i1", "--json", cwd=abroad, **ZONE).stdout
    )
    assert told["ranker"] == names[0]
    judged = json.loads(ask_well("ranker", "evaluate", names[0], "--repo", repo.path, "--json").out)
    assert judged["rows"]["all"]["rows"] == finished.output["arms"][0]["rows"]
    arm = next(arm for arm in finished.output["arms"] if f"_{arm['arm']}_s0_" in names[0])
    assert abs(judged["slices"]["all"]["auc"] - arm["auc"]) < 1e-6
    early = iso(finished.result.as_of_us - 50 * 86_400_000_000)
    refused = ask_well("ranker", "evaluate", names[0], "--repo", repo.path, "--since", early, expect=1)
    assert "before these artefacts were fitted" in refused.err
    assert names[0] in refused.err and finished.output["codebook"]["name"] in refused.err


def test_the_commands_that_look_at_codes(finished: FinishedJob, tmp_path: Path, abroad: Path) -> None:
    repo = copy_of(finished.repo, tmp_path / "repo")
    name = finished.output["codebook"]["name"]

    def run(*arguments: object, expect: int = 0) -> str:
        return ask_well(*arguments, "--repo", repo.path, expect=expect).out

    preset = tmp_path / "grid.toml"
    text = FAST_PRESET.read_text().replace("[ranker]", "[sweep]\nlevels = [1, 2]\nsizes = [8]\n\n[ranker]", 1)
    preset.write_text(text + "\n[health]\nmin_recent = 2\n")
    told = json.loads(run("codebooks", "sweep", "--preset", preset, "--sample", 300, "--json"))
    assert [trial["label"] for trial in told["trials"]] == ["content/residual_kmeans/8", "content/residual_kmeans/8x8"]
    assert told["reason"] and told["trials"][0]["hit_rate"] is not None
    assert told["reason"] in run("codebooks", "sweep", "--preset", preset, "--sample", 300)
    assert run("codebooks", "health", name).split(":")[0] in {"fresh", "watch", "unknown"}
    shifted = pq.read_table(repo.tables / f"item_sid_{name}.parquet").to_pylist()
    fit_end = Catalog.open(repo).codebook(name).fit_end_us
    for row in shifted:
        if row["event_timestamp"].timestamp() * 1e6 > fit_end and row["codes"]:
            row["codes"], row["residual_norm"] = [0] * len(row["codes"]), 9.0
    schema = pq.read_schema(repo.tables / f"item_sid_{name}.parquet")
    pq.write_table(pa.Table.from_pylist(shifted, schema), repo.tables / f"item_sid_{name}.parquet")
    reseal(repo.tables / f"item_sid_{name}.parquet")
    stale = json.loads(run("codebooks", "health", name, "--json", "--preset", preset, expect=3))
    assert stale["verdict"] == "stale" and stale["reasons"]
    page = tmp_path / "page.html"
    assert run("codebooks", "report", name, "--out", page).strip() == str(page)
    assert name in page.read_text()
    assert "rows in" in run("codebooks", "suffixes", name)
    told = pq.read_table(repo.tables / f"sid_suffix_{name}.parquet").to_pylist()
    assert len({(tuple(row["codes"]), row["suffix"]) for row in told}) == len({row["item_id"] for row in told}) > 100


def test_help_imports_neither_torch_nor_feast() -> None:
    script = (
        "import sys\n"
        "from sidkit.cli import build_app\n"
        "from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(build_app(), ['--help'])\n"
        "assert result.exit_code == 0 and 'codebooks' in result.output\n"
        "print([name for name in ('torch', 'feast', 'faiss', 'sklearn', 'polars', 'duckdb') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_that_is_no_repo_is_refused_with_the_remedy(tmp_path: Path) -> None:
    done = forked_sidkit("apply", "--repo", tmp_path / "none", cwd=tmp_path, expect=1)
    assert "is not a sidkit repository" in done.stderr and "sidkit init" in done.stderr


def test_a_time_without_a_zone_is_refused(finished: FinishedJob) -> None:
    done = ask_well("tables", "build", "--repo", finished.repo.path, "--as-of", "2024-03-01T00:00:00", expect=1)
    assert "expected a time with a zone" in done.err
