"""The bearer token: where it comes from, and when it is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.builders import FinishedJob
from helpers.commands import ask
from helpers.http_service import running
from sidkit.core.errors import ConfigError
from sidkit.serve.options import TOKEN_VARIABLE, ServeOptions, is_loopback

TOKEN = "0123456789abcdef0123"


def options(**values: object) -> ServeOptions:
    return ServeOptions(repo=".", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_a_loopback_address_needs_no_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert is_loopback(host) and options(host=host).token() is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com"])
def test_another_address_needs_one(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="--token-file"):
        options(host=host).token()
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert options(host=host).token() == TOKEN


def test_a_token_file_must_be_private_and_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        options(token_file=str(file)).token()
    file.chmod(0o600)
    assert options(token_file=str(file)).token() == TOKEN
    file.write_text("short\n")
    with pytest.raises(ConfigError, match="at least 16"):
        options(token_file=str(file)).token()
    with pytest.raises(ConfigError, match="cannot be read"):
        options(token_file=str(tmp_path / "none")).token()


def test_requests_without_the_token_are_refused(finished: FinishedJob, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    body = {"user_id": "u1", "item_ids": ["i1"]}
    with running(finished.repo.path, "--token-file", file) as service:  # readiness needs none
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
            answer = service.call("POST", "/v1/rank", body, **given)
            assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert service.call("GET", "/metrics", **given).status == 401
        assert service.call("POST", "/v1/rank", body, Authorization=f"Bearer {TOKEN}").status == 200
        assert TOKEN not in service.log.read_text()


def test_the_command_refuses_a_ranker_that_cannot_serve(finished: FinishedJob) -> None:
    answer = ask("serve", "--repo", finished.repo.path, "--ranker", "nothing")
    assert answer.code == 1 and "no ranker named 'nothing'" in answer.err
    answer = ask("serve", "--repo", finished.repo.path, "--host", "0.0.0.0")
    assert answer.code == 1 and "expected a bearer token" in answer.err
