"""The bearer token: where it comes from, and when it is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.builders import FinishedJob
from helpers.commands import ask
from helpers.http_service import running
from sidkit.core.errors import ConfigError
from sidkit.serve.options import TOKEN_VARIABLE, ServeOptions, is_loopback, name_in

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


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("LocalHost:8000", "localhost"),
        ("[::1]:8000", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("evil.example.:80", "evil.example"),
        ("a:b", "a:b"),
    ],
)
def test_the_name_of_a_host_header(header: str, name: str) -> None:
    assert name_in(header) == name


def test_names_are_checked_without_a_token_or_when_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert options().hosts() == {"localhost"}
    assert options(allowed_hosts=("Rank.Example:80",)).hosts() == {"localhost", "rank.example"}
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert options().hosts() is None
    assert options(allowed_hosts=("rank.example",)).hosts() == {"localhost", "rank.example"}
    options(allowed_hosts=("rank.example",)).to_environment()
    assert ServeOptions.from_environment() == options(allowed_hosts=("rank.example",))


def test_another_name_is_refused_on_every_path(finished: FinishedJob) -> None:
    body = {"user_id": "u1", "item_ids": ["i1"]}
    with running(finished.repo.path, "--allowed-host", "rank.example") as service:
        port = service.url.rpartition(":")[2]
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "10.0.0.1"):
            for method, path, sent in (
                ("POST", "/v1/rank", body),
                ("GET", "/", None),
                ("GET", "/v2/health/live", None),
            ):
                answer = service.call(method, path, sent, Host=host)
                assert answer.status == 421 and "--allowed-host" in answer.json["remedy"]
        for host in ("localhost", f"LOCALHOST:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "rank.example"):
            assert service.call("POST", "/v1/rank", body, Host=host).status == 200


def test_the_command_refuses_a_ranker_that_cannot_serve(finished: FinishedJob) -> None:
    answer = ask("serve", "--repo", finished.repo.path, "--ranker", "nothing")
    assert answer.code == 1 and "no ranker named 'nothing'" in answer.err
    answer = ask("serve", "--repo", finished.repo.path, "--host", "0.0.0.0")
    assert answer.code == 1 and "expected a bearer token" in answer.err
