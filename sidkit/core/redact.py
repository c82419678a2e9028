"""Redaction of secrets in everything that is printed or stored.

:func:`redacted` handles one URL. :func:`scrubbed` handles any text, such as the message of a database driver that repeats the
URL or the password alone: it hides whatever looks like a secret, and the secrets of all URLs that this process has read
(:func:`remember`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"

_URL = re.compile(r"(?s)([^:]*:/*)(.*)")
_SHOWN_KEYS = frozenset(
    {"application_name", "charset", "client_encoding", "connect_timeout", "driver", "host", "mode", "port", "sslmode"}
    | {"timeout", "uri"}
)
"""Query keys whose values are shown; the values of all other keys are hidden."""
_SECRET_KEY = r"(?:passw(?:or)?d|passphrase|pwd|secret|token|api_?key|access_?key|credentials?)"
_SECRET_NAME = re.compile(rf"(?i)[\w\-]*{_SECRET_KEY}")
# All patterns below run in linear time, so that a value of a megabyte is no problem.
_USERINFO = re.compile(r"([A-Za-z0-9+.\-]:/+[^\s:/@'\"]*):[^\s'\"]*@")
_PAIR = re.compile(rf"(?i)({_SECRET_KEY})(\s*=\s*|['\"]\s*:\s*)('[^']*'|\"[^\"]*\"|[^\s&;,'\")}}\]]+)")
_LEAST = 4
"""Minimum length of a secret searched for in any text; a shorter one would match ordinary words."""

_remembered: set[str] = set()


def looks_like_url(text: str) -> bool:
    """Whether a source is a URL (possibly mistyped) rather than a path."""
    return "://" in text or bool(re.match(r"[A-Za-z][A-Za-z0-9+.\-]+:.*@", text, re.DOTALL))


def redacted(text: str) -> str:
    """Hide a URL's password and the values of its query; a path is returned unchanged.

    A URL that cannot be parsed is hidden up to its last ``@``, since a password could be anywhere before it.
    """
    match = _URL.fullmatch(text) if looks_like_url(text) else None
    if match is None:
        return text
    scheme, rest = match.groups()
    userinfo, at, place = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    if "?" in user or (at and "//" not in scheme and not colon):  # the last @ is in the query, or no user is given
        user = HIDDEN
    place, mark, query = place.partition("?")
    shown = f"{user}:{HIDDEN}@" if colon else f"{user}@" if at else ""
    return f"{scheme}{shown}{place}{mark}{_query(query)}"


def remember(url: str) -> None:
    """Register the secrets of a URL, so that :func:`scrubbed` hides them in any text of this process."""
    _remembered.update(secret for secret in _secrets(url) if len(secret) >= _LEAST)


def scrubbed(text: object, *urls: str) -> str:
    """Hide secrets in a text: those of ``urls``, those of all remembered URLs, and whatever looks like one."""
    shown = str(text)
    for secret in sorted({*_remembered, *_long(urls)}, key=len, reverse=True):
        shown = shown.replace(secret, HIDDEN)
    shown = _USERINFO.sub(rf"\1:{HIDDEN}@", shown)
    return _PAIR.sub(rf"\1\2{HIDDEN}", shown)


def scrubbed_value(value: Any, key: str = "") -> Any:
    """Redact a settings value for display, recursively: URLs, and values whose key names a secret."""
    if isinstance(value, dict):
        return {name: scrubbed_value(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(scrubbed_value(inner, key) for inner in value)
    if _SECRET_NAME.fullmatch(key):
        return HIDDEN
    return scrubbed(redacted(value)) if isinstance(value, str) else value


def _query(query: str) -> str:
    shown = []
    for pair in query.split("&"):
        key, equals, _ = pair.partition("=")
        if not pair or key.lower() in _SHOWN_KEYS:
            shown.append(pair)
        else:
            shown.append(f"{key}={HIDDEN}" if equals else HIDDEN)
    return "&".join(shown)


def _long(urls: Iterable[str]) -> set[str]:
    return {secret for url in urls for secret in _secrets(url) if len(secret) >= _LEAST}


def _secrets(url: str) -> set[str]:
    """The parts of a URL that :func:`redacted` hides, as written and in the encodings that a driver may use."""
    match = _URL.fullmatch(url) if looks_like_url(url) else None
    if match is None:
        return set()
    userinfo, _, place = match[2].rpartition("@")
    password = userinfo.partition(":")[2]
    secrets = {password, password.partition("@")[0]}  # SQLAlchemy ends a password at the first @
    for pair in place.partition("?")[2].split("&"):
        key, _, value = pair.partition("=")
        if key.lower() not in _SHOWN_KEYS:
            secrets.add(value)
    secrets.discard("")
    return {form for secret in secrets for form in (secret, unquote(secret), unquote_plus(secret), *_quoted(secret))}


def _quoted(secret: str) -> tuple[str, str]:
    plain = unquote(secret)
    return quote(plain, safe=""), quote_plus(plain)
