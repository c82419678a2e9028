"""A password is never shown and never stored, except in sidkit.toml."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import sidkit.core.redact
from helpers.builders import FinishedJob
from helpers.contract_builders import good, sqlite
from ranking.experiments.comparison.comparison import data_name
from ranking.pipeline.prepare import prepare_repo
from semantic_ids.catalog import Catalog
from semantic_ids.pretrained.items import Items
from sidkit.cli import main
from sidkit.contract import open_source, same_source
from sidkit.core.config import Settings, resolved_url
from sidkit.core.errors import ConfigError, SidkitError
from sidkit.core.redact import redacted, remember, scrubbed
from sidkit.core.repo import Repo, init_repo

SECRET = "hunter22secret"
NUMBER = "47114711"
"""A secret that SQLite's driver takes as the value of an option."""
URLS = [
    f"postgresql+psycopg://me:{SECRET}@host:5432/log",
    f"postgresql+psycopg://me:{SECRET}@host:port/log",
    f"postgresql://host/log?user=me&password={SECRET}",
    f"postgresql://host/log?sslmode=require&sslpassword={SECRET}&sslkey={SECRET}",
    f"nodialect://me:{SECRET}@localhost/log?token={SECRET}",
    f"mssql+pyodbc:///?odbc_connect=Driver%3Dx%3BPWD%3D{SECRET}",
    f"postgresql:/me:{SECRET}@localhost/log",
    f"postgresql:me:{SECRET}@localhost",
    f"postgresql://me:{SECRET}@@ @localhost/log",
    f"://me:{SECRET}@localhost/log",
    f"mysql://:{SECRET}@",
    f"sqlite+pysqlcipher://:{SECRET}@/log.db",
]


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidkit.core.redact, "_remembered", set())


@pytest.mark.parametrize("url", URLS)
def test_no_message_about_a_url_holds_its_password(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SECRET not in redacted(url) and "***" in redacted(url)
    assert SECRET not in data_name(url)
    repo = init_repo(tmp_path / "repo", source_url=url)
    toml = repo.path / "sidkit.toml"
    toml.write_text(toml.read_text().replace("sqlite:///data/catalog.sqlite", url))
    monkeypatch.setenv("LOG", url)
    for work in (
        lambda: open_source(url), lambda: open_source("env:LOG"), lambda: Items(url), lambda: Items("env:LOG"),
        lambda: Catalog.open(repo), lambda: prepare_repo("synthetic", repo.path), lambda: prepare_repo(url, repo.path),
    ):  # fmt: skip
        with pytest.raises(SidkitError) as raised:
            work()
        assert SECRET not in str(raised.value)
        assert (
            raised.value.__suppress_context__
            or raised.value.__context__ is None
            or SECRET not in str(raised.value.__context__)
        )


@settings(deadline=None, max_examples=60)
@given(password=st.text(min_size=4, max_size=12).filter(lambda text: text.strip() and text.isprintable()))
@example("p@ss:w/rd?x=1&y#z%41")
def test_any_password_is_hidden_as_written_and_as_a_driver_writes_it(password: str) -> None:
    for written in (quote(password, safe=""), password):
        url = f"postgresql://me:{written}@host/log"
        remember(url)
        assert redacted(url) == "postgresql://me:***@host/log"
        told = scrubbed(f"connection to {url} failed: DSN was user=me key=<{password}> and {quote(password, safe='')}")
        assert f"<{password}>" not in told and written not in told.replace("***", "")


@given(st.text(max_size=30))
def test_a_path_is_shown_as_it_is(text: str) -> None:
    path = "/data/" + text.replace("://", "")
    assert redacted(path) == path


def test_what_is_no_secret_stays() -> None:
    assert redacted("postgresql://me@host/log?sslmode=require") == "postgresql://me@host/log?sslmode=require"
    assert redacted("sqlite:////data/log.sqlite") == "sqlite:////data/log.sqlite"
    assert scrubbed("max_tokens = 5 and a: b@c.d") == "max_tokens = 5 and a: b@c.d"
    assert scrubbed("FATAL password='a b' x PGPASSWORD=abc, api_key=\"k\" {'token': 'abc'}") == (
        "FATAL password=*** x PGPASSWORD=***, api_key=*** {'token': ***}"
    )


@pytest.mark.parametrize(
    "text",
    [
        f'[source]\nurll = "postgresql://me:{SECRET}@host/log"',
        f'source = "postgresql://me:{SECRET}@host/log"',
        f'[source]\nurl = ["postgresql://me:{SECRET}@host/log"]',
        f'[catalog]\npassword = "{SECRET}"',
        f'[catalog]\nurl = {{dsn = "x", password = "{SECRET}"}}',
        f'[catalog]\nurl = 5\n[split]\ntrain = "password={SECRET}"',
    ],
)
def test_errors_of_the_settings_do_not_repeat_secrets(tmp_path: Path, text: str) -> None:
    (tmp_path / "sidkit.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"sidkit\.toml: ") as raised:
        Settings.load(tmp_path / "sidkit.toml")
    assert SECRET not in str(raised.value) and "***" in str(raised.value)
    assert raised.value.__suppress_context__


def test_a_source_may_come_from_the_environment_and_is_never_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlite(tmp_path / "log.db", good()) + f"?cached_statements={NUMBER}"
    monkeypatch.delenv("LOG", raising=False)
    for missing in ("env:LOG", "env:", "env:LOG "):
        with pytest.raises(ConfigError, match="the environment variable '(LOG)?' is not set"):
            resolved_url(missing)
    monkeypatch.setenv("LOG", url)
    assert open_source("env:LOG").url == "env:LOG"
    repo = prepare_repo("env:LOG", tmp_path / "repo")
    assert repo.settings.source.url == "env:LOG"
    assert prepare_repo(url, repo.path) == prepare_repo("env:LOG", repo.path) == repo
    assert NUMBER not in "".join(file.read_text() for file in repo.path.rglob("*") if file.is_file())
    monkeypatch.setenv("LOG", url.replace(NUMBER, "47114712"))
    with pytest.raises(
        ConfigError, match=r"was created for 'env:LOG', got '.*cached_statements=\*\*\*'; use another --repo"
    ):
        prepare_repo(url, repo.path)
    monkeypatch.delenv("LOG")
    with pytest.raises(ConfigError, match="the environment variable 'LOG' is not set"):
        prepare_repo(url, repo.path)


def test_two_urls_that_differ_in_their_passwords_only_are_told_apart(tmp_path: Path) -> None:
    url = sqlite(tmp_path / "log.db", good())
    repo = prepare_repo(f"{url}?cached_statements={NUMBER}", tmp_path / "repo")
    with pytest.raises(
        ConfigError, match=r"cached_statements=\*\*\*' \(they differ in redacted parts\); use another"
    ) as raised:
        prepare_repo(f"{url}?cached_statements=47114712", repo.path)
    assert "4711" not in str(raised.value)
    assert same_source(str(tmp_path), f"{tmp_path}/../{tmp_path.name}")


def test_the_catalogue_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = init_repo(tmp_path / "repo")
    toml = repo.path / "sidkit.toml"
    toml.write_text(toml.read_text().replace("sqlite:///data/catalog.sqlite", "env:CATALOG"))
    repo = Repo.open(repo.path)
    with pytest.raises(ConfigError, match="'CATALOG' is not set"):
        Catalog.open(repo)
    monkeypatch.setenv("CATALOG", "sqlite:///data/mine.sqlite")
    assert Catalog.open(repo).codebooks() == []
    assert (repo.data / "mine.sqlite").is_file()


def test_settings_lock_and_databases_are_for_their_owner_alone(finished: FinishedJob) -> None:
    private = ["sidkit.toml", ".sidkit.lock", "data/catalog.sqlite", "data/registry.sqlite", "data/online.sqlite"]
    modes = {name: stat.S_IMODE((finished.repo.path / name).stat().st_mode) for name in private}
    assert modes == dict.fromkeys(private, 0o600)


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "check", URLS[0]], ["data", "check", "x", URLS[0]], [URLS[0]], ["data", "synthetic", "x", "--seed", URLS[2]],
        ["init", "{}/new", "--data", URLS[0]], ["run", "--data", URLS[2], "--repo", "{}/new"],
        ["run", f"--data={URLS[0]}", "--repo", "{}/repo"], ["ranker", "compare", "--data", URLS[1], "--repo", "{}/new"],
        ["data", "embed", URLS[0], "--out", "{}/x", "--text", "m"], ["codebooks", "list", "--repo", "{}/repo"],
        ["data", "ingest", "--repo", "{}/repo"], ["doctor", "--repo", "{}/repo", "--json"], ["apply", "--repo", "{}/repo"],
        ["score", "--repo", "{}/repo", "--user", "u", "--items", URLS[0]],
    ],
)  # fmt: skip
def test_no_command_shows_or_stores_a_password(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    repo = init_repo(tmp_path / "repo", source_url=URLS[0])
    toml = repo.path / "sidkit.toml"
    toml.write_text(toml.read_text().replace("sqlite:///data/catalog.sqlite", URLS[4]))
    monkeypatch.setattr(sys, "argv", ["sidkit", *(argument.format(tmp_path) for argument in arguments)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in {1, 2}
    printed = "".join(capfd.readouterr())
    assert printed and SECRET not in printed and "Traceback" not in printed
    stored = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert stored == [toml]


def test_the_lock_names_the_command_and_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = init_repo(tmp_path / "repo")
    for arguments, told in (
        (["data", "ingest", "--repo", "x"], "sidkit data ingest"),
        (["run", f"--data={URLS[0]}"], "sidkit run"),
        ([URLS[0], "x"], "sidkit"),
    ):
        monkeypatch.setattr(sys, "argv", ["/bin/sidkit", *arguments])
        with repo.locked():
            assert (repo.path / ".sidkit.lock").read_text().endswith(f": {told}")


def test_a_bug_is_traced_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError(f"the driver said {SECRET} and postgresql://me:other@host/x")

    monkeypatch.setattr("sidkit.contract.open_source", broken)
    monkeypatch.setattr(sys, "argv", ["sidkit", "data", "check", URLS[0]])
    with pytest.raises(SystemExit):
        main()
    printed = capfd.readouterr().err
    assert "RuntimeError: the driver said *** and postgresql://me:***@host/x" in printed and SECRET not in printed


def test_json_shows_no_password() -> None:
    assert json.dumps({"data": redacted(URLS[0])}) == '{"data": "postgresql+psycopg://me:***@host:5432/log"}'
