"""Errors of a Redis server as :class:`~sidkit.core.errors.OnlineStoreError`, which say how to fix them and have no secrets."""

from __future__ import annotations

from sidkit.core.errors import OnlineStoreError
from sidkit.core.redact import redacted, scrubbed

SETTING = "online_store.url in feature_store.yaml"
FORM = "redis://[USER:PASSWORD@]HOST:PORT/NUMBER"


def unusable_url(url: str, reason: str) -> OnlineStoreError:
    """The error for a URL of no Redis server."""
    return OnlineStoreError(f"expected {SETTING} as {FORM}, got {redacted(url)}{reason}")


def translated(error: Exception, url: str, prefix: str, remedy: str) -> OnlineStoreError:
    """The error for one of ``redis``.

    Parameters
    ----------
    error : redis.exceptions.RedisError
        What the client raised. Errors within scripts have the server's text, but not always a class of their own.
    url, prefix : str
        The server and the first part of the keys.
    remedy : str
        How to rebuild the rows.
    """
    from redis import exceptions

    text = str(error)
    kinds: list[tuple[type[Exception] | None, str, str, str]] = [
        (
            exceptions.AuthenticationError,
            "WRONGPASS|NOAUTH|Authentication required",
            "refuses the user or the password",
            f"correct {SETTING}, or the environment variable that it names",
        ),
        (
            exceptions.NoPermissionError,
            "NOPERM",
            "does not allow the user a command",
            f"grant +@all on the keys {prefix}:* to the user of {SETTING}",
        ),
        (
            exceptions.OutOfMemoryError,
            "OOM command",
            "is out of memory",
            "raise maxmemory of the server or drop views, then write again",
        ),
        (exceptions.ReadOnlyError, "READONLY", "is a read-only replica", f"set {SETTING} to the primary"),
        (
            None,
            "WRONGTYPE",
            f"has other data under the keys {prefix}:*",
            "set online_store.key_prefix in feature_store.yaml to another text",
        ),
        (exceptions.TimeoutError, "", "did not answer in time", "raise online_store.timeout_seconds, or relieve the server"),
        (exceptions.ConnectionError, "", "cannot be reached", f"start the Redis server, or correct {SETTING}"),
    ]  # fmt: skip
    problem, advice = "cannot be used", f"check the server, then {remedy}"
    for kind, texts, means, fix in kinds:
        if (kind is not None and isinstance(error, kind)) or any(each in text for each in texts.split("|") if each):
            problem, advice = means, fix
            break
    return OnlineStoreError(f"the online store {redacted(url)} {problem} ({scrubbed(error, url)}): {advice}")
