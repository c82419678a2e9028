"""``sidkit.toml``: the settings of one repo as frozen models; unknown keys are refused."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from sidkit.core.clock import MICROS
from sidkit.core.errors import ConfigError
from sidkit.core.redact import remember, scrubbed, scrubbed_value

_FROM_ENVIRONMENT = "env:"
_DEEPEST = 50
"""Tables within tables that a settings file may hold; presets hold four."""
_SHOWN = 200
"""Characters of a wrong value that an error shows."""
Feedback = Literal["impressions", "positives_only"]
Model = TypeVar("Model", bound=BaseModel)

RESERVED_MODALITIES = frozenset(
    {"item_id", "user_id", "updated_at", "event_timestamp", "created_timestamp", "category", "price", "created_at_us"}
    | {"reason", "nth", "file_row_number"}
)
"""Names that the tables, the feature views or the checks use themselves, whatever the case of their letters."""

FEATURE_NAME_RULE = (
    "use letters, digits and underscores, no digit or underscore at the beginning, at most 100 bytes, no ending in '_y' "
    f"(Feast drops it), and none of {', '.join(sorted(RESERVED_MODALITIES))} in any case"
)


def is_feature_name(name: str) -> bool:
    """Whether a vector column may become a feature of that name."""
    fits = name.isidentifier() and len(name.encode()) <= 100 and not name.startswith("_")
    return fits and not name.lower().endswith("_y") and name.lower() not in RESERVED_MODALITIES


def _plain_types(annotation: Any) -> set[Any]:
    """The types that an annotation such as ``int | None`` allows, or of the elements of a tuple; a Literal counts as str."""
    parts = get_args(annotation)
    if not parts:
        return {annotation}
    if get_origin(annotation) is Literal:
        return {type(part) for part in parts}
    if get_origin(annotation) is Annotated:
        return _plain_types(parts[0])
    if get_origin(annotation) in {Union, UnionType, tuple}:
        return set().union(*map(_plain_types, parts))
    return {get_origin(annotation)}


class Section(BaseModel):
    """A frozen table of a TOML file that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_is_converted(cls, value: Any, info: ValidationInfo) -> Any:
        """A number is written as a number and a flag as true or false: pydantic would read "1500" as 1500 and true as 1."""
        kinds = _plain_types(cls.model_fields[info.field_name or ""].annotation)
        wanted = kinds & {bool, int, float}
        if not wanted or kinds & {str, Any}:
            return value
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, str) or (
                isinstance(each, bool | int | float) and isinstance(each, bool) is not (bool in wanted)
            ):
                raise ValueError(f"expected {'true or false' if bool in wanted else 'a number without quotes'}")
        return value


class SourceSettings(Section):
    """Where the user's log lives and how strictly it is read (``[source]``)."""

    url: str = ""
    """A folder of Parquet files, or a SQLAlchemy URL, with the tables of the input contract; ``env:NAME`` reads either from
    an environment variable whenever it is used."""
    modalities: tuple[str, ...] = ("text",)
    """The vector columns of ``item_embeddings`` that become features."""
    feedback: Feedback = "impressions"
    """``positives_only`` when the log holds no negatives: they are then sampled, and exposures are unknown (null)."""
    conversions: bool = False
    """Whether the log says which clicks converted; without it ``conversions_*`` are unknown (null)."""
    unknown_items: Literal["reject", "keep"] = "reject"
    """Interactions with items that the catalogue lacks: rejected, or kept as items without content."""
    missing_created_at: Literal["reject", "first_interaction"] = "reject"
    """Items without ``created_at``: rejected, or dated by their first interaction."""
    max_reject_share: float = Field(default=0.01, ge=0, le=1)
    """Above this share of rejected rows in one table the run stops."""

    @field_validator("modalities")
    @classmethod
    def _names_are_usable(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("name at least one vector column of item_embeddings")
        for name in names:
            if not is_feature_name(name):
                raise ValueError(f"{name[:200]!r} cannot be a feature name: {FEATURE_NAME_RULE}")
        if len({name.lower() for name in names}) != len(names):  # SQL does not tell letters of different case apart
            raise ValueError(f"{names} names a column twice")
        return names


class TimeSettings(Section):
    """From when a feature could have been read (``[time]``)."""

    availability_delay_seconds: float = Field(default=60.0, ge=1e-6, le=1e9, allow_inf_nan=False)
    """Seconds between an event and the moment from which serving could read it; above 0, or a click predicts itself."""
    stats_cadence_seconds: int = Field(default=60, ge=1, le=31_536_000)
    """Seconds between the window ends of the trailing counts."""
    history_length: int = Field(default=50, ge=1, le=1000)
    """Positives kept per user, newest first."""

    @property
    def delay_us(self) -> int:
        """The availability delay in microseconds."""
        return round(self.availability_delay_seconds * MICROS)

    @property
    def cadence_us(self) -> int:
        """The cadence of the window ends in microseconds."""
        return self.stats_cadence_seconds * MICROS


class NegativeSettings(Section):
    """How negatives are drawn where the log holds positives only (``[negatives]``)."""

    per_positive: int = Field(default=4, ge=1, le=100)
    strategy: Literal["stratified", "uniform"] = "stratified"
    seed: int = Field(default=0, ge=0, lt=2**63)


class SplitSettings(Section):
    """The global split in time, as shares of the labelled rows (``[split]``)."""

    train: float = Field(default=0.8, gt=0, lt=1)
    validation: float = Field(default=0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _something_is_left(self) -> SplitSettings:
        if self.train + self.validation >= 1:
            raise ValueError("split.train + split.validation must stay below 1: the rest is the test window")
        return self


class CatalogSettings(Section):
    """The catalogue of codebooks and rankers (``[catalog]``)."""

    url: str = "sqlite:///data/catalog.sqlite"
    """A SQLAlchemy URL, or ``env:NAME``; a relative SQLite path is relative to the repo, not to the working directory."""


class EngineSettings(Section):
    """What one process may use (``[engine]``)."""

    threads: int = Field(default=2, ge=1, le=1024)
    memory_limit: str = Field(default="1500MB", pattern=r"^0*[1-9]\d{0,8}(\.\d{1,6})? ?[KMGT]i?B$")
    """DuckDB's memory limit; beyond it DuckDB spills to ``data/tmp``."""
    chunk_rows: int = Field(default=200_000, ge=1, le=100_000_000)


class Settings(Section):
    """All settings of one repo.

    Read with :meth:`load`; written only by people (and once by ``sidkit init``).
    """

    source: SourceSettings = SourceSettings()
    time: TimeSettings = TimeSettings()
    negatives: NegativeSettings = NegativeSettings()
    split: SplitSettings = SplitSettings()
    catalog: CatalogSettings = CatalogSettings()
    engine: EngineSettings = EngineSettings()

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read ``sidkit.toml``.

        Raises
        ------
        ConfigError
            When the file is missing, is no TOML, or holds a key or a value that the models refuse.
        """
        return load_model(cls, path)

    def feature_settings(self) -> dict[str, Any]:
        """The settings that decide what the feature tables hold, flat, as JSON values."""
        return {
            "source.modalities": list(self.source.modalities),
            "source.feedback": self.source.feedback,
            "source.conversions": self.source.conversions,
            "time.availability_delay_seconds": self.time.availability_delay_seconds,
            "time.stats_cadence_seconds": self.time.stats_cadence_seconds,
            "time.history_length": self.time.history_length,
        }


def load_model(model: type[Model], path: Path) -> Model:
    """Read a TOML file into a frozen model; see :meth:`Settings.load`."""
    return validated(model, _toml(path), path)


def _toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply for a settings file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    level: list[Any] = [values]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return values
    raise ConfigError(f"{path} is nested too deeply for a settings file: more than {_DEEPEST} levels")


def validated(model: type[Model], values: dict[str, Any], place: Path | str) -> Model:
    """A model of values that a user wrote, in a file or as arguments; paths of plug-ins are relative to that file.

    Raises
    ------
    ConfigError
        When a value is wrong; it names ``place``, the key, the reason and the value that came, without secrets.
    """
    try:
        return model.model_validate(values, context={"folder": place.parent} if isinstance(place, Path) else None)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {scrubbed(problem['msg'])} (found {_found(problem)})"
            for problem in error.errors()
        )
        # Pydantic's own message repeats the values as they are.
        raise ConfigError(f"{place}: {problems}") from None


def _found(problem: Any) -> str:
    text = repr(scrubbed_value(problem["input"], str(problem["loc"][-1]) if problem["loc"] else ""))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def resolved_url(text: str) -> str:
    """A source or a URL as the settings state it, with ``env:NAME`` replaced by the variable's value.

    The value is never stored; :func:`sidkit.core.redact.scrubbed` hides its secrets from here on.

    Raises
    ------
    ConfigError
        When the variable is not set, or empty.
    """
    if text.startswith(_FROM_ENVIRONMENT):
        name = text.removeprefix(_FROM_ENVIRONMENT).strip()
        text = os.environ.get(name, "") if name and "\0" not in name else ""
        if not text:
            raise ConfigError(
                f"the environment variable {name!r} is not set; the settings say {_FROM_ENVIRONMENT}{name}, so set it to a "
                "folder or a SQLAlchemy URL"
            )
    remember(text)
    return text


def content_hash(value: Any) -> str:
    """SHA-256 (first 16 hex digits) of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_section(model: type[Model], path: Path, section: str) -> Model:
    """Read one table of a TOML file into a frozen model; a missing table gives the defaults.

    Raises
    ------
    ConfigError
        As :func:`load_model`.
    """
    return validated(model, _toml(path).get(section, {}), path)
