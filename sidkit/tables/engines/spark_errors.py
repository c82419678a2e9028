"""Errors of Spark as errors of sidkit: which step stopped, why, and what to set where memory is short."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sidkit.core.errors import EngineError

_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception): ")
"""Last line of a Python traceback."""
_MEMORY = (
    "OutOfMemoryError",
    "UNABLE_TO_ACQUIRE_MEMORY",
    "Unable to acquire",
    "GC overhead limit",
    "Cannot broadcast the table",
)
_ENDED = ("Answer from Java side is empty", "Error while sending", "trying to connect to the Java server")
_UNKNOWN = re.compile(r"(py4j|java|org\.apache\.spark)\.[\w.]+ does not exist in the JVM")
"""What py4j says of its own names when the process has ended between two calls."""
_DRIVER, _EXECUTOR, _RESULT = "spark.driver.memory", "spark.executor.memory", "spark.driver.maxResultSize"
_DEFAULTS = {_DRIVER: "1g", _EXECUTOR: "1g", _RESULT: "1g"}
_started: dict[str, str] = {}


def note_settings(conf: Mapping[str, str]) -> None:
    """Remember the settings with which Spark was started, for messages; Java can be out of reach then."""
    if not _started:
        _started.update(conf)


@contextmanager
def spark_errors(step: str = "building the tables") -> Iterator[None]:
    """Raise Spark's errors inside the block as an EngineError; :func:`sidkit.core.engine.working_on` names a better step.

    Raises
    ------
    EngineError
        Where memory was short, it names the setting to raise, and a value.
    """
    try:
        yield
    except Exception as error:
        if (message := _refused(error)) is None:
            raise
        named = next(iter(getattr(error, "__notes__", ())), step)
        raise EngineError(f"Spark stopped {named}: {message}") from error


def _refused(error: Exception) -> str | None:
    """The first line of an error of Spark or of its Java process, or that of a Python worker; None for others."""
    from py4j.protocol import Py4JError, Py4JNetworkError
    from pyspark.errors import PySparkException

    if not isinstance(error, PySparkException | Py4JError | ConnectionError | EOFError):
        return None
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    of_worker = [line for line in lines[1:] if _RAISED.match(line)]
    if "maxResultSize" in text:
        return f"its result is larger than {_RESULT} allows. {_advice(_RESULT)}"
    if any(sign in text for sign in _MEMORY):
        local = _started.get("spark.master", "local").startswith("local")
        of_driver = local or "in stage" not in text  # a task that fails on a cluster names its stage
        return f"its Java process ran out of memory. {_advice(_DRIVER if of_driver else _EXECUTOR)}"
    ended = any(sign in text for sign in _ENDED) or _UNKNOWN.search(text) is not None
    if ended or isinstance(error, Py4JNetworkError | ConnectionError | EOFError):
        return f"its Java process does not answer, mostly for want of memory. {_advice(_DRIVER)}"
    return next(iter([*of_worker, *lines]), type(error).__name__)


def _advice(setting: str) -> str:
    stated = _started.get(setting, _DEFAULTS[setting])
    return (
        f"Set {setting} in offline_store.spark_conf of feature_store.yaml to more than {stated}, for example "
        f"{_twice(stated)}, and start the command again"
    )


def _twice(size: str) -> str:
    """Twice a size such as ``2g``."""
    found = re.fullmatch(r"(\d+)\s*([a-zA-Z]*)", size.strip())
    return f"{2 * int(found[1])}{found[2]}" if found else "4g"
