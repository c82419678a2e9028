"""Options of the service."""

from __future__ import annotations

import ipaddress
import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from sidkit.core.errors import ConfigError

Engine = Literal["torch", "onnx"]
TOKEN_VARIABLE = "SIDKIT_SERVE_TOKEN"
"""Environment variable with the bearer token."""
_OPTIONS = "SIDKIT_SERVE_OPTIONS"
_LEAST_TOKEN = 16


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How the service runs; :meth:`to_environment` passes them to worker processes."""

    repo: str
    ranker: str | None = None
    """Serve this ranker whatever the catalogue says; default: the one in state ``serving``, also after a promotion."""
    engine: Engine = "torch"
    """What computes scores: torch, or onnxruntime from the exported graph."""
    shadow: str | None = None
    """A ranker that scores the same requests, for comparison."""
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    token_file: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    """Names in the header ``Host`` that are answered, besides those of the loopback address; see :meth:`hosts`."""
    poll_seconds: float = 5.0
    """How often the catalogue and the materialization are compared with what is loaded."""
    max_feature_age_seconds: float | None = None
    """The service is not ready, and refuses requests, while the features are older."""
    pictures: str | None = None
    """Column of the items with addresses of pictures, for the page; "off" for none; default: one with a usual name."""
    max_body_bytes: int = 1_000_000
    max_waiting: int = 64
    """Requests per worker that wait or run at a time; others get status 429."""
    timeout_seconds: float = 10.0
    """Time limit of a request; the answer is then status 503."""
    static_bytes: int = 256 << 20
    """Memory per worker for the features of items that are held in arrays; items beyond it are read for each request."""
    log_sample: float = 0.0
    """Share of the requests that the served log has; 0: there is none."""
    log_rows: int = 100
    """At most so many items of a request are logged, the best-ranked ones."""
    log_seconds: float = 60.0
    """Each worker writes a file of the served log after so many seconds with requests."""
    log_megabytes: float = 1_000.0
    """At most so many megabytes of the served log; the oldest files are removed."""
    tick_seconds: float | None = None
    """Accept events and items, and write what they change to the online store this often; None: they are refused."""

    def to_environment(self) -> None:
        """Store the options for processes that this one starts."""
        os.environ[_OPTIONS] = json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> Self:
        """The options that the parent process stored."""
        values = json.loads(os.environ[_OPTIONS])
        return cls(**{**values, "allowed_hosts": tuple(values["allowed_hosts"])})

    def hosts(self) -> frozenset[str] | None:
        """Names that requests may have in ``Host``, besides loopback addresses; None: any.

        Without a token, or with names given, other names are refused: a page on the web whose name resolves to the loopback
        address (DNS rebinding) would read the answers otherwise.
        """
        if self.token() is not None and not self.allowed_hosts:
            return None
        return frozenset({"localhost", *(name_in(host) for host in self.allowed_hosts)})

    def token(self) -> str | None:
        """The bearer token: of the file, else of the environment variable; None if requests need none.

        Raises
        ------
        ConfigError
            When the file cannot be read, the token is short, or the address is not a loopback address and there is no token.
        """
        token = os.environ.get(TOKEN_VARIABLE)
        if self.token_file is not None:
            token = _token_in(Path(self.token_file))
        if token is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host}: expected a bearer token for an address that other machines reach, got none; write one "
                f"of {_LEAST_TOKEN} characters or more into a file and pass --token-file, or set {TOKEN_VARIABLE}"
            )
        if token is not None and (len(token) < _LEAST_TOKEN or not token.isascii() or " " in token):
            raise ConfigError(
                f"expected a bearer token of at least {_LEAST_TOKEN} ASCII characters without spaces, got another one; make "
                "one with `openssl rand -hex 32`"
            )
        return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def name_in(host: str) -> str:
    """The name or address in a header ``Host``, without port, brackets and final dot, in lower case."""
    name, end, port = host.strip().lower().rpartition(":")
    if not end or not port.isdigit() or (":" in name and not name.endswith("]")):
        name = host.strip().lower()
    return name.removeprefix("[").removesuffix("]").removesuffix(".")


def _token_in(path: Path) -> str:
    try:
        if os.name == "posix" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(
                f"--token-file: expected a file that only its owner can read, got {path}; run chmod 600 on it"
            )
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--token-file: expected a file with a token, got {path}, which cannot be read ({error}); correct the path"
        ) from error
