"""Artefacts on S3: a server of moto on this machine, and s3fs as users have it."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers.builders import fresh_repo
from helpers.codebook_builders import CUT, ITEMS, SPEC, build, write_source
from semantic_ids import lifecycle
from semantic_ids.catalog import Catalog
from sidkit.core.artifact_root import SWEEP_AFTER, ArtifactRoot
from sidkit.core.errors import ArtifactCorruptError, ArtifactError
from sidkit.core.repo import Repo

MISSING = [name for name in ("s3fs", "moto", "flask") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"s3 absent: {', '.join(MISSING)}; `make test-services` installs sidkit[s3] and moto[server]",
    ),
    pytest.mark.filterwarnings("default"),  # of moto and what it imports
]


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex}"  # the server keeps those of former tests
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}/prefix"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def machine(folder: Path, name: str, url: str) -> Repo:
    toml = {
        'url = "sqlite:///data/catalog.sqlite"': f'url = "sqlite:///{folder}/catalog.sqlite"\n\n[artifacts]\nurl = "{url}"'
    }
    return build(fresh_repo(folder / name, folder / "source", modalities=("text", "image"), toml=toml))


def test_a_codebook_of_one_machine_is_that_of_another(url: str, tmp_path: Path) -> None:
    write_source(tmp_path / "source", ITEMS)
    one, other = machine(tmp_path, "one", url), machine(tmp_path, "other", url)
    fitted = lifecycle.fit(one, "book", SPEC, CUT)
    assert Catalog.open(other).codebook("book") == fitted
    names = {path.name for path in (one.codebooks / "book").iterdir()}
    assert {path.name: path.read_bytes() for path in (other.codebooks / "book").iterdir()} == {
        name: (one.codebooks / "book" / name).read_bytes() for name in names
    }
    root = ArtifactRoot(url)
    assert root.names("codebooks") == ["book"]
    assert lifecycle.fit(other, "book", SPEC, CUT) == fitted
    lifecycle.retire(other, "book")
    lifecycle.purge(other, "book")
    assert root.names("codebooks") == []
    swept = root.sweep(now=datetime.now(UTC) + 2 * SWEEP_AFTER)
    assert (swept.removed, swept.young) == (len(names) - 1, 0)  # all but the manifest, which the purge removed


def test_a_damaged_object_is_refused(url: str, tmp_path: Path) -> None:
    import s3fs

    write_source(tmp_path / "source", ITEMS)
    one, other = machine(tmp_path, "one", url), machine(tmp_path, "other", url)
    lifecycle.fit(one, "book", SPEC, CUT)
    files = s3fs.S3FileSystem()
    for path in files.ls(f"{url}/files"):
        files.pipe_file(path, b"damaged")
    with pytest.raises(ArtifactCorruptError, match="does not match its SHA-256"):
        Catalog.open(other).codebook("book")


def test_a_bucket_that_does_not_exist_is_named(url: str, tmp_path: Path) -> None:
    write_source(tmp_path / "source", ITEMS)
    one = machine(tmp_path, "one", "s3://nobody/prefix")
    with pytest.raises(
        ArtifactError, match="expected uploading codebooks/book at s3://nobody/prefix .*check the address"
    ) as caught:
        lifecycle.fit(one, "book", SPEC, CUT)
    assert "secret" not in str(caught.value)
