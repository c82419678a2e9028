"""`sidkit run` under the profile production: what it finds on the services is reused, and what they lost is written again."""

from __future__ import annotations

from pathlib import Path

from helpers.builders import FAST_PRESET, FinishedJob, copy_of, forked_sidkit
from helpers.own_services import own_services
from sidkit.core.repo import Repo
from sidkit.profiles.production import REDIS


def ran(repo: Repo, folder: Path, environment: dict[str, str]) -> set[str]:
    """The stages that a run did; the others were reused."""
    done = forked_sidkit(
        "run", "--data", "synthetic", "--repo", repo.path, "--preset", FAST_PRESET, "--impressions", 24_000, "--json",
        cwd=folder, **environment,
    )  # fmt: skip
    lines = [line.split() for line in done.stderr.splitlines() if "rows" in line]
    assert len(lines) > 10, done.stderr
    return {line[1].rstrip(":") for line in lines if line[0] != "reused"}


def test_a_resumed_run_materializes_only_what_the_server_does_not_have(
    finished: FinishedJob, tmp_path: Path, postgres_url: str, redis_address: str
) -> None:
    from redis import Redis

    environment = own_services(postgres_url, redis_address)
    repo = copy_of(finished.repo, tmp_path / "repo")
    for line in (("profile", "switch", "production"), ("codebooks", "repair"), ("apply",)):
        forked_sidkit(*line, "--repo", repo.path, cwd=tmp_path, **environment)
    assert ran(repo, tmp_path, environment) == {"materialize"}, "the rows of the local file do not count"
    assert ran(repo, tmp_path, environment) == set()
    client = Redis.from_url(environment[REDIS])
    client.delete("packed:{sidkit_item_stats}:rows")
    assert ran(repo, tmp_path, environment) == {"materialize"}
    assert client.hlen("packed:{sidkit_item_stats}:rows")
    forked_sidkit("profile", "switch", "local", "--repo", repo.path, cwd=tmp_path, **environment)
    assert ran(repo, tmp_path, {}) == {"materialize"}, "the file may be older than the server"
