"""Commands on Postgres and Redis, killed where they change one of them, leave what undisturbed ones leave.

``make kill-storm PROFILE=production`` kills at all points, and at random moments; this is a small part of it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.builders import run_apart
from helpers.service_points import SERVICES
from kill_campaign import FEW, RANDOM_KILLS, READING, main


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, postgres_url: str, redis_address: str) -> dict[str, Any]:
    """The kills; skipped without the servers, of which the campaign starts its own."""
    assert postgres_url and redis_address
    folder = tmp_path_factory.mktemp("kills")
    said = run_apart(main, folder, "production", False, True)
    assert (folder / "campaign.json").exists(), said
    found: dict[str, Any] = json.loads((folder / "campaign.json").read_text())
    assert set(FEW) <= set(found), said
    return found


@pytest.mark.parametrize("step", FEW)
def test_a_step_killed_at_a_service_ends_alike_when_it_is_run_again(campaign: dict[str, Any], step: str) -> None:
    kills, points = campaign[step]["kills"], campaign[step]["points"]
    assert len(kills) >= 2
    assert (step == "refresh") is not any(point.endswith(SERVICES) for point in points), "a refresh writes files only"
    assert step == "refresh" or all(kill["point"].endswith(SERVICES) for kill in kills)
    assert {kill["point"]: kill["wrong"] for kill in kills if kill["wrong"]} == {}


@pytest.mark.parametrize("step", RANDOM_KILLS)
def test_so_does_a_step_killed_at_a_random_moment(campaign: dict[str, Any], step: str) -> None:
    assert campaign["at random"][step]["wrong"] == []


@pytest.mark.parametrize("step", FEW)
def test_neither_a_file_nor_a_service_changes_between_two_points(campaign: dict[str, Any], step: str) -> None:
    assert campaign[step]["gaps"] == []


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_commands_that_read_change_neither_a_file_nor_a_service(
    campaign: dict[str, Any], arguments: tuple[str, ...]
) -> None:
    assert campaign["reading"][" ".join(arguments)] == []
