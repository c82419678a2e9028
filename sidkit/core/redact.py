"""URLs without their passwords, for every place that prints or stores one.

:func:`redacted` takes one URL. :func:`scrubbed` takes any text, such as the message of a database driver, which may repeat
the URL or the password alone: what looks like a secret is hidden, and so are the secrets of all URLs that this process has
read (:func:`remember`).
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
"""Keys of a query whose values are no secrets; the values of all others are hidden."""
_SECRET_KEY = r"(?:passw(?:or)?d|passphrase|pwd|secret|token|api_?key|access_?key|credentials?)"
_SECRET_NAME = re.compile(rf"(?i)[\w\-]*{_SECRET_KEY}")
# No pattern below scans a text again and again: a value of a megabyte takes no longer than reading it.
_USERINFO = re.compile(r"([A-Za-z0-9+.\-]:/+[^\s:/@'\"]*):[^\s'\"]*@")
_PAIR = re.compile(rf"(?i)({_SECRET_KEY})(\s*=\s*|['\"]\s*:\s*)('[^']*'|\"[^\"]*\"|[^\s&;,'\")}}\]]+)")
_LEAST = 4
"""Characters of a secret that is looked for in any text; a shorter one would be found in ordinary words."""

_remembered: set[str] = set()


def looks_like_url(text: str) -> bool:
    """Whether a source is a URL, if only a mistyped one, and no path."""
    return "://" in text or bool(re.match(r"[A-Za-z][A-Za-z0-9+.\-]+:.*@", text, re.DOTALL))


def redacted(text: str) -> str:
    """A URL without its password and without the values of its query; a path as it is.

    A URL that cannot be parsed is hidden up to its last ``@``, wherever a password could be.
    """
    found = _URL.fullmatch(text) if looks_like_url(text) else None
    if found is None:
        return text
    scheme, rest = found.groups()
    userinfo, at, place = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    if "?" in user or (
        at and "//" not in scheme and not colon
    ):  # the last @ is one of the query, or no user is in sight
        user = HIDDEN
    place, mark, query = place.partition("?")
    shown = f"{user}:{HIDDEN}@" if colon else f"{user}@" if at else ""
    return f"{scheme}{shown}{place}{mark}{_query(query)}"


def remember(url: str) -> None:
    """Note the secrets of a URL, so that :func:`scrubbed` finds them in any text of this process."""
    _remembered.update(secret for secret in _secrets(url) if len(secret) >= _LEAST)


def scrubbed(text: object, *urls: str) -> str:
    """A text without secrets: those of some URLs, those of all remembered URLs, and what looks like one."""
    told = str(text)
    for secret in sorted({*_remembered, *_long(urls)}, key=len, reverse=True):
        told = told.replace(secret, HIDDEN)
    told = _USERINFO.sub(rf"\1:{HIDDEN}@", told)
    return _PAIR.sub(rf"\1\2{HIDDEN}", told)


def scrubbed_value(value: Any, key: str = "") -> Any:
    """A value of a settings file as it may be shown: URLs redacted, also inside; hidden where its key names a secret."""
    if isinstance(value, dict):
        return {name: scrubbed_value(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(scrubbed_value(inner, key) for inner in value)
    if _SECRET_NAME.fullmatch(key):
        return HIDDEN
    return scrubbed(redacted(value)) if isinstance(value, str) else value


def _query(query: str) -> str:
    told = []
    for pair in query.split("&"):
        key, equals, _ = pair.partition("=")
        if not pair or key.lower() in _SHOWN_KEYS:
            told.append(pair)
        else:
            told.append(f"{key}={HIDDEN}" if equals else HIDDEN)
    return "&".join(told)


def _long(urls: Iterable[str]) -> set[str]:
    return {secret for url in urls for secret in _secrets(url) if len(secret) >= _LEAST}


def _secrets(url: str) -> set[str]:
    """The parts of a URL that :func:`redacted` hides, as they are written and as a driver may write them."""
    found = _URL.fullmatch(url) if looks_like_url(url) else None
    if found is None:
        return set()
    userinfo, _, place = found[2].rpartition("@")
    password = userinfo.partition(":")[2]
    secrets = {password, password.partition("@")[0]}  # SQLAlchemy ends a password at the first @
    for pair in place.partition("?")[2].split("&"):
        key, _, value = pair.partition("=")
        if key.lower() not in _SHOWN_KEYS:
            secrets.add(value)
    told = {secret for secret in secrets if secret}
    return {form for secret in told for form in (secret, unquote(secret), unquote_plus(secret), *_quoted(secret))}


def _quoted(secret: str) -> tuple[str, str]:
    plain = unquote(secret)
    return quote(plain, safe=""), quote_plus(plain)
