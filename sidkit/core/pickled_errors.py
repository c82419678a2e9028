"""Errors whose constructors expect other arguments than the message."""

from __future__ import annotations

from typing import Any


class PickledError(BaseException):
    """An error that can be pickled, as pools of processes do, and copied: with its message and its attributes.

    By default, Python would call the constructor with the message.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[PickledError], args: tuple[Any, ...]) -> PickledError:
    return kind.__new__(kind, *args)
