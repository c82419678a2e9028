"""Plain operations for exported graphs: those without a custom gradient, without blocks of rows, and without searches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain_operations() -> Iterator[None]:
    """Use plain operations for the duration of the block; results are equal, but take more time or memory."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def is_plain() -> bool:
    """Whether plain operations are wanted."""
    return _plain.get()
