"""Feast's caches of registry objects: never answer from another registry, and read one in SQL again once, not per object.

``feast.infra.registry.proto_registry_utils`` (0.67) caches the last result of each look-up under the ``id`` of the registry's
message. After a refresh, or with several stores in a process, a new message may be allocated at the address of a freed one,
and the look-up then returns the views of the old registry. Each look-up is wrapped so that the message behind its cached
result stays alive, and its ``id`` cannot be reused.

A registry in SQL reads all of its tables again after every object that is written: an apply of 45 new objects does so 45 times.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any


def hold_cached_registries() -> None:
    """Wrap the cached look-ups of Feast's registry; idempotent."""
    from feast.infra.registry import proto_registry_utils

    for name, function in list(vars(proto_registry_utils).items()):
        is_cached = name.startswith(("get_", "list_")) and hasattr(function, "__wrapped__")
        if is_cached and not getattr(function, "_sidkit", False):
            setattr(proto_registry_utils, name, _holding(function))


@contextlib.contextmanager
def refreshed_once(registry: Any) -> Iterator[None]:
    """Write objects to a registry that reads itself again at the end, and not after every object.

    Within the block, Feast's look-ups that allow a cache see the registry as it was at the beginning.
    """
    if getattr(registry, "cache_mode", None) != "sync":
        yield
        return
    registry.cache_mode = "thread"  # leaves refreshing to a thread, which only a registry that is made so starts
    try:
        yield
    finally:
        registry.cache_mode = "sync"
        registry.refresh()


def _holding(function: Callable[..., Any]) -> Callable[..., Any]:
    held: list[object] = [None]

    @functools.wraps(function)
    def look_up(registry_proto: object, *arguments: Any, **named: Any) -> Any:
        result = function(registry_proto, *arguments, **named)
        held[0] = registry_proto  # after the call: a look-up that raises leaves the earlier result in the cache
        return result

    look_up._sidkit = True  # type: ignore[attr-defined]
    return look_up
