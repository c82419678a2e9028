"""Run the service: one process, or several that share a socket."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from sidkit.core.errors import ConfigError
from sidkit.core.extras import require
from sidkit.core.files import check_output
from sidkit.core.repo import Repo
from sidkit.serve.logs import log_to_stderr
from sidkit.serve.options import ServeOptions
from sidkit.serve.ticking import ticking

_GRACE_SECONDS = 20


def serve(options: ServeOptions, started: Callable[[str], None] = lambda url: None) -> None:
    """Serve until a signal arrives: SIGTERM and SIGINT let running requests end, SIGHUP looks for another ranker at once.

    With one worker the model is loaded in this process. With several, a worker that dies is replaced, and SIGHUP replaces each
    worker once its successor answers.

    Parameters
    ----------
    options : ServeOptions
    started : callable, optional
        Called with the URL once the port is open.

    Raises
    ------
    MissingExtraError
        When an optional package is not installed.
    ConfigError
        When the address cannot be used, or a token is needed and missing.
    UnknownVersionError, ServingError, ArtifactError, SettingsChangedError
        When the ranker cannot serve.
    StorageError
        When the served log cannot be written.
    """
    require("starlette", "uvicorn", "msgspec", "prometheus_client", purpose="sidkit serve", extra="serve")
    from ranking.serving.served_log import log_folder
    from sidkit.serve.metrics import MULTIPROCESS_NAMES
    from sidkit.serve.model import ModelLoader
    from sidkit.serve.people import picture_column

    options.token()
    if options.log_sample:
        check_output(log_folder(Repo.open(options.repo)) / "served.parquet")
    if options.pictures is not None:
        picture_column(Repo.open(options.repo), options.pictures)  # raises for an unknown column
    for ranker in filter(None, (options.ranker or "", options.shadow)):
        ModelLoader(options.repo, ranker).wanted()  # raises for an unknown name
    loader = ModelLoader(options.repo, options.ranker, 0, options.engine)
    loader.load(loader.wanted())  # raises if the ranker cannot serve; workers try again and again
    with TemporaryDirectory(prefix="sidkit-metrics-") as folder, _bound(options) as opened:
        host, port = opened.getsockname()[:2]
        started(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        if options.workers > 1:
            os.environ.update(dict.fromkeys(MULTIPROCESS_NAMES, folder))
        options.to_environment()
        with ticking(options.repo, options.tick_seconds), _own_signals():
            _run(options, opened)


def _run(options: ServeOptions, opened: socket.socket) -> None:
    from uvicorn import Config, Server
    from uvicorn.supervisors import Multiprocess, multiprocess

    from sidkit.serve.worker import Worker

    config = Config(
        "sidkit.serve.app:create",
        factory=True,
        workers=options.workers,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        timeout_worker_healthcheck=60,
        limit_concurrency=None,
        backlog=2048,
        ws="none",
    )
    log_to_stderr()
    if options.workers == 1:
        Server(config).run([opened])
        return
    multiprocess.Process = Worker  # type: ignore[misc]
    Multiprocess(config, [opened]).run()


@contextmanager
def _bound(options: ServeOptions) -> Iterator[socket.socket]:
    try:
        kind, _, _, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(kind, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        raise ConfigError(
            f"expected an address and a port that are free, got {options.host}:{options.port} ({error.strerror}); use another "
            "--port, or stop what uses it"
        ) from error
    opened.set_inheritable(True)
    with opened:
        yield opened


@contextmanager
def _own_signals() -> Iterator[None]:
    """Let the server handle signals: a command would end at once, with a message about unfinished work."""
    wakeup = signal.set_wakeup_fd(-1)
    before = {number: signal.signal(number, _ignored) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)


def _ignored(*_: object) -> None:
    """The server raises its signal again when it has ended; this one is already obeyed."""
