"""Settings files: ``sidkit.toml`` with right, wrong, unknown and broken values, and what the README says of each."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Check = Callable[[Any], bool]


def _whole(least: int, most: float = math.inf) -> Check:
    return lambda value: type(value) in {int, float} and float(value).is_integer() and least <= value <= most


def _number(least: float, most: float, *, ends: bool) -> Check:
    def holds(value: Any) -> bool:
        if type(value) not in {int, float} or not math.isfinite(value):
            return False
        return least <= value <= most if ends else least < value < most

    return holds


def _one_of(*texts: str) -> Check:
    return lambda value: type(value) is str and value in texts


def _modality(name: Any) -> bool:
    return type(name) is str and name.isidentifier() and not name.startswith("_")


KEYS: dict[str, Check] = {
    "source.url": lambda value: type(value) is str,
    "source.modalities": lambda value: (
        type(value) is list and bool(value) and all(map(_modality, value)) and len(set(value)) == len(value)
    ),
    "source.feedback": _one_of("impressions", "positives_only"),
    "source.conversions": lambda value: type(value) is bool,
    "source.unknown_items": _one_of("reject", "keep"),
    "source.missing_created_at": _one_of("reject", "first_interaction"),
    "source.max_reject_share": _number(0, 1, ends=True),
    "time.availability_delay_seconds": _number(0, math.inf, ends=False),
    "time.stats_cadence_seconds": _whole(1),
    "time.history_length": _whole(1),
    "negatives.per_positive": _whole(1),
    "negatives.strategy": _one_of("stratified", "uniform"),
    "negatives.seed": _whole(-(2**63)),
    "split.codebook": _number(0, 1, ends=False),
    "split.train": _number(0, 1, ends=False),
    "split.validation": _number(0, 1, ends=False),
    "catalog.url": lambda value: type(value) is str,
    "engine.threads": _whole(1),
    "engine.memory_limit": lambda value: type(value) is str and bool(value),
    "engine.chunk_rows": _whole(1),
}
"""Every key of the README's table and what it may hold at all; a settings file may be refused for tighter limits."""

GOOD: dict[str, tuple[str, ...]] = {
    "source.url": ('"/data/x"', '"sqlite:///x.sqlite"', '"ünï"', '"it\'s"'),
    "source.modalities": ('["text"]', '["text", "image"]', '["a1"]'),
    "source.feedback": ('"impressions"', '"positives_only"'), "source.conversions": ("true", "false"),
    "source.unknown_items": ('"keep"', '"reject"'), "source.missing_created_at": ('"reject"', '"first_interaction"'),
    "source.max_reject_share": ("0.01", "0.5", "0", "1.0"), "time.availability_delay_seconds": ("60.0", "1", "0.5", "3600"),
    "time.stats_cadence_seconds": ("60", "1", "3600"), "time.history_length": ("50", "1", "200"),
    "negatives.per_positive": ("4", "1", "10"), "negatives.strategy": ('"stratified"', '"uniform"'),
    "negatives.seed": ("0", "7"),
    "split.codebook": ("0.3", "0.1"), "split.train": ("0.8", "0.5"), "split.validation": ("0.1", "0.05"),
    "catalog.url": ('"sqlite:///data/other.sqlite"',),
    "engine.threads": ("1", "2", "4"), "engine.memory_limit": ('"1500MB"', '"2GB"', '"1.5GiB"'),
    "engine.chunk_rows": ("1000", "200000"),
}  # fmt: skip
ODD = (
    '""', '" "', '"text"', "0", "-1", "1", "1.5", "1e400", "inf", "-inf", "nan", "true", "false", "[]", '["text"]',
    "[1, 2]", "{}", "{a = 1}",
    "2024-01-01", "2024-01-01T00:00:00Z", "12:00:00", "99999999999999999999999", "-0.0", "0.0", "1e-300", '"50"',
    '"0.5"', '"true"', "0x10",
    "1_000", '"\\u0000"', '"\\u00fc"', '"../x"', '["a b"]', '["text", "text"]', '["_vec"]', '["image_y"]',
    '["item_id"]', '[""]', '["ünï"]',
    '["' + "x" * 300 + '"]', '"' + "x" * 5000 + '"', '"1500"', '"10 parsecs"', '"-1GB"', '"0MB"', '"1e3MB"', "[[1]]",
    '"IMPRESSIONS"', '"sqlite://"',
    '"nosuch://x"', '"postgresql://user:secret@host:port/db"', "50.0", "2.0", '["class"]', '["text", 1]', '"""a\nb"""',
)  # fmt: skip
UNKNOWN = (
    "sorce.url", "source.urls", "source.Modalities", "time.delay", "engine.thread", "source.unknown_item",
    "catalog.uri", "nonsense.key",
    "split.test", "time.history_lenght", "'source '.url", '"".x', "source.url.deep",
)  # fmt: skip
BROKEN = (
    b"[source", b"url = ", b"[source]\nurl = 'a'\nurl = 'b'\n", b"[source]\n[source]\n", b"\xff\xfe[source]",
    b"[source]\nurl = \"\xff\"\n",
    b"\x00", b"= 1", b"[source]\r\nurl = \"x\r\n", b"a.b.c = 1\na.b = 2\n", b"[source]\nurl = \"unterminated\n",
    b"x = [" * 3000, b"{", b"[[source]]\nurl = 'x'\n",
    b"source = 1\n", b"source = 'x'\n[time]\n", b"[time]\nhistory_length = 0b2\n", b"# only a comment", b"",
    b"\xef\xbb\xbf[source]\nurl = \"x\"\n",
    b"x." * 2000 + b"y = 1\n", b"a = {b = " * 400 + b"1" + b"}" * 400, b"[source]\nurl = 2024-99-99\n",
    b"\xed\xa0\x80 = 1", b"[" * 500 + b"a" + b"]" * 500,
)  # fmt: skip


@dataclass
class SettingsFile:
    """One file, and what it says."""

    data: bytes
    stated: dict[str, str] = field(default_factory=dict)
    """Key -> the TOML text of its value."""
    odd: tuple[str, ...] = ()
    """Keys that may not be accepted as they are."""


def draw_settings(draw: random.Random) -> SettingsFile:
    """One settings file."""
    if draw.random() < 0.15:
        return SettingsFile(draw.choice(BROKEN))
    keys = draw.sample(list(KEYS), draw.randint(0, 8))
    stated = {key: draw.choice(GOOD[key]) for key in keys}
    odd: list[str] = []
    if draw.random() < 0.75:
        for key in draw.sample(list(KEYS), draw.choice((1, 1, 1, 2))):
            stated[key] = draw.choice(ODD)
            odd.append(key)
    if draw.random() < 0.25:
        key = draw.choice(UNKNOWN)
        stated[key] = draw.choice(("1", '"x"', "true"))
        odd.append(key)
    if draw.random() < 0.5:
        lines = [f"{key} = {value}" for key, value in stated.items()]
    else:
        sections: dict[str, list[str]] = {}
        for key, value in stated.items():
            section, _, name = key.rpartition(".")
            sections.setdefault(section, []).append(f"{name} = {value}")
        lines = [line for section, held in sections.items() for line in (f"[{section}]", *held)]
    if draw.random() < 0.1:
        lines.insert(0, "# " + draw.choice(("ünï", "🦆", "x" * 5000)))
    return SettingsFile("\n".join(lines).encode() + b"\n", stated, tuple(odd))
