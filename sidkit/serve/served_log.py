"""Writes the served log: sampled requests, in a thread of its own, into files that are rotated and bounded."""

from __future__ import annotations

import json
import logging
import queue
import random
import secrets
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ranking.serving.served_log import LogHeader, log_folder, remove_oldest, served_table, write_file
from sidkit.core.clock import present_us
from sidkit.core.errors import SidkitError
from sidkit.core.redact import scrubbed
from sidkit.core.repo import Repo

if TYPE_CHECKING:
    import pyarrow as pa

    from ranking.serving.context import Context
    from sidkit.serve.metrics import Metrics
    from sidkit.serve.model import ServingModel
    from sidkit.serve.options import ServeOptions
    from sidkit.serve.ranking import Scored

_LOG = logging.getLogger("sidkit.serve")
_WAITING = 64
_FILE_BYTES = 32_000_000
"""A file is written once its rows take so many bytes in memory."""
_TIMES = "%Y%m%dT%H%M%S"


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """How much is logged."""

    share: float
    """Share of the requests, from 0 to 1."""
    rows: int = 100
    """At most so many items of a request, the best-ranked ones."""
    seconds: float = 60.0
    """A file is written after so many seconds; a worker that is killed loses the rows since the last one."""
    megabytes: float = 1_000.0
    """At most so many megabytes of files; the oldest are removed."""


@dataclass(frozen=True)
class _Request:
    model: ServingModel
    request_id: str
    scored: Scored
    most: int
    logged_us: int
    context: Context | None


@dataclass
class _Part:
    """Rows of one header that wait for a file."""

    since: float
    tables: list[pa.Table] = field(default_factory=list)
    bytes: int = 0


class ServedLog:
    """Logs requests in a thread of its own; answers do not wait for it.

    Parameters
    ----------
    folder : Path
        Folder of the files; workers share it.
    options : LogOptions
    metrics : Metrics
    """

    def __init__(self, folder: Path, options: LogOptions, metrics: Metrics) -> None:
        self._folder = folder
        self._options = options
        self._metrics = metrics
        self._random = random.Random()
        self._writer = secrets.token_hex(4)  # process ids repeat in containers that share the folder
        self._written = 0
        self._problem = ""
        self._parts: dict[LogHeader, _Part] = {}
        self._waiting: queue.Queue[_Request | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="sidkit-served-log", daemon=True)
        self._thread.start()

    def offer(
        self,
        model: ServingModel,
        request_id: str,
        scored: Scored,
        most: int | None = None,
        context: Context | None = None,
    ) -> None:
        """Log a request later if it is in the sample; it is dropped, and counted, if too many wait.

        Parameters
        ----------
        model : ServingModel
            The model that scored it.
        request_id : str
        scored : Scored
            Its candidates.
        most : int, optional
            Number of items of the answer; default: all candidates.
        context : mapping, optional
            What the request brought.
        """
        if self._random.random() >= self._options.share:
            return
        rows = min(self._options.rows, most or len(scored.item_ids))
        try:
            self._waiting.put_nowait(_Request(model, request_id, scored, rows, present_us(), context))
        except queue.Full:
            self._metrics.served_log_dropped.labels("queue").inc()

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            due = min((part.since + self._options.seconds for part in self._parts.values()), default=None)
            try:
                request = self._waiting.get(timeout=None if due is None else max(due - time.monotonic(), 0.0))
            except queue.Empty:
                self._write()
                continue
            if request is None:
                self._write(everything=True)
                return
            try:
                self._add(request)
            except Exception as error:  # noqa: BLE001  answers do not depend on the log
                self._failed(error)
                self._metrics.served_log_dropped.labels("error").inc()
            self._write()

    def _add(self, request: _Request) -> None:
        scored, scores = request.scored, request.scored.scores
        table = served_table(
            scored.request.data,
            scores.values,
            scores.known,
            scores.user_known,
            request.request_id,
            request.logged_us,
            request.most,
            request.context,
        )
        part = self._parts.setdefault(header_of(request.model), _Part(time.monotonic()))
        part.tables.append(table)
        part.bytes += table.nbytes

    def _write(self, *, everything: bool = False) -> None:
        """Write the parts that are old or large enough, or all."""
        before = time.monotonic() - self._options.seconds
        for header, part in list(self._parts.items()):
            if everything or part.since <= before or part.bytes >= _FILE_BYTES:
                del self._parts[header]
                self._write_part(header, part)

    def _write_part(self, header: LogHeader, part: _Part) -> None:
        self._written += 1
        name = f"served-{time.strftime(_TIMES, time.gmtime())}-{self._writer}-{self._written:06}.parquet"
        try:
            write_file(self._folder / name, header, part.tables)
            self._metrics.served_log_rows.inc(sum(len(table) for table in part.tables))
            remove_oldest(self._folder, int(self._options.megabytes * 1e6))
            self._problem = ""
        except Exception as error:  # noqa: BLE001  the disk may be full, or the repository read-only
            self._failed(error)
            self._metrics.served_log_dropped.labels("disk").inc(len(part.tables))

    def _failed(self, error: Exception) -> None:
        message = scrubbed(error) if isinstance(error, SidkitError) else f"{type(error).__name__}: {scrubbed(error)}"
        if message != self._problem:
            _LOG.error(json.dumps({"served_log": message}))
        self._problem = message


def open_log(options: ServeOptions, metrics: Metrics) -> ServedLog | None:
    """The served log of a service; None if nothing is to be logged."""
    if not options.log_sample:
        return None
    kept = LogOptions(
        share=options.log_sample,
        rows=options.log_rows,
        seconds=options.log_seconds,
        megabytes=options.log_megabytes,
    )
    return ServedLog(log_folder(Repo.open(options.repo)), kept, metrics)


def header_of(model: ServingModel) -> LogHeader:
    """What rows of a model are logged with."""
    key, ranker = model.key, model.scorer.ranker
    config = ranker.config
    return LogHeader(
        key.ranker,
        key.ranker_hash,
        key.codebook,
        key.codebook_hash,
        config.service,
        key.until_us,
        ranker.smoothing_rate,
        config.history_length,
        config.vectors,
        config.schema,
        config.target,
    )
