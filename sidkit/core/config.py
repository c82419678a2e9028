"""``sidkit.toml``: the settings of a repository as frozen models; unknown keys are rejected."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from sidkit.core.clock import MICROS
from sidkit.core.errors import ConfigError
from sidkit.core.feature_settings import FeatureSettings
from sidkit.core.redact import remember, scrubbed, scrubbed_value
from sidkit.core.section import Section
from sidkit.core.source_inputs import LabelSettings, TimesSettings, VectorSettings

FROM_ENVIRONMENT = "env:"
_DEEPEST = 50
"""Maximum nesting depth of a settings file; presets use four levels."""
_SHOWN = 200
"""Maximum number of characters of an invalid value shown in an error."""
Feedback = Literal["impressions", "positives_only"]
Model = TypeVar("Model", bound=BaseModel)

RESERVED_MODALITIES = frozenset(
    {"item_id", "user_id", "updated_at", "event_timestamp", "created_timestamp", "category", "price", "created_at_us"}
    | {"reason", "nth", "file_row_number"}
)
"""Names used by the tables, feature views or checks, compared case-insensitively."""

NO_VECTORS = "no_vectors"
"""Vector column of a source without vectors: the same single zero for every item, which no arm reads."""

FEATURE_NAME_RULE = (
    "use letters, digits and underscores, starting with a letter, at most 100 bytes, not ending in '_y' "
    f"(Feast drops it), and none of {', '.join(sorted(RESERVED_MODALITIES))} in any case"
)


def is_feature_name(name: str) -> bool:
    """Whether a vector column of this name can become a feature."""
    fits = name.isidentifier() and len(name.encode()) <= 100 and not name.startswith("_")
    return fits and not name.lower().endswith("_y") and name.lower() not in RESERVED_MODALITIES


class SourceSettings(Section):
    """Location of the user's tables and how strictly they are validated (``[source]``)."""

    url: str = ""
    """A folder of Parquet, CSV or JSON-lines files, or a SQLAlchemy URL, with the tables of the input contract; ``env:NAME``
    reads either one from an environment variable each time it is used. A path that begins with ``./`` is relative to the
    repository; ``sidkit init`` stores other relative paths as absolute ones."""
    modalities: tuple[str, ...] = ("text",)
    """The vector columns of ``item_embeddings`` that become features; ``[]`` for a source without vectors."""
    feedback: Feedback = "impressions"
    """``positives_only`` if the log has no negatives: they are then sampled, and exposures are unknown (null)."""
    conversions: bool = False
    """Whether the log has a ``converted`` column; without it ``conversions_*`` are unknown (null)."""
    unknown_items: Literal["reject", "keep"] = "reject"
    """Interactions with items missing from ``items``: reject them, or keep them as items without content."""
    missing_created_at: Literal["reject", "first_interaction"] = "reject"
    """Items without ``created_at``: reject them, or use the time of their first interaction. If no item has one, an item
    without interactions takes the time of the log's last interaction."""
    max_reject_share: float = Field(default=0.01, ge=0, le=1)
    """The run stops when a larger share of one table's rows is rejected."""
    tables: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """Table of the contract -> the file, folder or database table with its rows, such as ``interactions = "clicks.csv"``. A
    list joins several by ``item_id``: ``items = ["products.csv", "categories.csv"]``."""
    columns: dict[str, str | dict[str, str]] = Field(default_factory=dict)
    """Column of the contract -> its name in the source, such as ``timestamp = "ts"``, for every table that has the named
    column; ``[source.columns.items]`` is for one table only."""
    label: LabelSettings = LabelSettings()
    times: TimesSettings = TimesSettings()
    vectors: VectorSettings = VectorSettings()

    @property
    def content_vectors(self) -> tuple[str, ...]:
        """The vector columns of ``item_content``: the modalities, or :data:`NO_VECTORS` for a source without vectors."""
        return self.modalities or (NO_VECTORS,)

    @field_validator("modalities")
    @classmethod
    def _names_are_usable(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not is_feature_name(name):
                raise ValueError(f"{name[:200]!r} cannot be a feature name: {FEATURE_NAME_RULE}")
        if len({name.lower() for name in names}) != len(names):  # SQL column names are case-insensitive
            raise ValueError(f"expected distinct columns (ignoring case), got {names}")
        return names


class TimeSettings(Section):
    """When a feature becomes available to serving (``[time]``)."""

    availability_delay_seconds: float = Field(default=60.0, ge=1e-6, le=1e9, allow_inf_nan=False)
    """Seconds from an event until serving can read it; above 0, otherwise a click would predict itself."""
    stats_cadence_seconds: int = Field(default=60, ge=1, le=31_536_000)
    """Seconds between the window ends of the trailing counts."""
    history_length: int = Field(default=50, ge=1, le=1000)
    """Number of positives in a user's history, newest first."""

    @property
    def delay_us(self) -> int:
        """The availability delay in microseconds."""
        return round(self.availability_delay_seconds * MICROS)

    @property
    def cadence_us(self) -> int:
        """The cadence of the window ends in microseconds."""
        return self.stats_cadence_seconds * MICROS


class NegativeSettings(Section):
    """Negative sampling for logs that have positives only (``[negatives]``)."""

    per_positive: int = Field(default=4, ge=1, le=100)
    """Sampled negatives per positive."""
    strategy: Literal["stratified", "uniform"] = "stratified"
    """``stratified`` matches a negative to its positive in age and clicks; ``uniform`` does not."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the sample."""
    base_rate: float | None = Field(default=None, gt=0, lt=1, exclude=True)
    """Share of positives among real exposures. Scores are shifted to it, so that they are rates; without it they only rank."""
    # Excluded from dumps: it applies to scores, so rows and rankers stay valid when it changes.


_CODEBOOK_OF_TRAIN = 0.625
"""Default of ``split.codebook``, as a share of ``split.train``: chosen on the validation rows of five data sets, see
``docs/results/codebook-windows.md``."""


class SplitSettings(Section):
    """The global temporal split, as shares of the labelled rows (``[split]``)."""

    codebook: float | None = Field(default=None, gt=0, lt=1)
    """Share of the labelled rows, the earliest ones, to fit a codebook on that learns from clicks; its rankers train on the
    training rows that follow. Below ``train``. Unset: five eighths of ``train``, which is 0.5 of the rows if that is 0.8."""
    train: float = Field(default=0.8, gt=0, lt=1)
    """Share of the labelled rows, the earliest ones, to train on."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of the following rows to choose settings and epochs on; the rest is the test window."""

    @model_validator(mode="after")
    def _something_is_left(self) -> SplitSettings:
        if self.train + self.validation >= 1:
            total = self.train + self.validation
            raise ValueError(
                f"expected split.train + split.validation below 1, got {total:g}: the rest is the test window"
            )
        if self.codebook is not None and self.codebook >= self.train:
            raise ValueError(
                f"expected split.codebook below split.train, got {self.codebook:g} and {self.train:g}: rankers train on "
                "the rows between them"
            )
        return self

    @property
    def codebook_share(self) -> float:
        """``codebook``, or its default."""
        return _CODEBOOK_OF_TRAIN * self.train if self.codebook is None else self.codebook


class CatalogSettings(Section):
    """The catalogue of codebooks and rankers (``[catalog]``)."""

    url: str = "sqlite:///data/catalog.sqlite"
    """A SQLAlchemy URL, or ``env:NAME``; a relative SQLite path is relative to the repo, not to the working directory."""
    db_schema: str = Field(default="", pattern=r"^([a-z_][a-z0-9_]{0,62})?$")
    """Schema of a Postgres database; empty: the database's default. Several repositories need one each."""


class ArtifactSettings(Section):
    """Where codebooks, rankers and reports are shared between machines (``[artifacts]``)."""

    url: str = ""
    """A URL of fsspec that the machines share, such as ``s3://bucket/prefix`` or ``file:///mnt/shared``, or ``env:NAME``; the
    folder ``artifacts`` of the repository is then a cache. Empty: artefacts stay in that folder."""


class EngineSettings(Section):
    """Resources of one process (``[engine]``)."""

    threads: int = Field(default=2, ge=1, le=1024)
    """Threads of one process."""
    memory_limit: str = Field(default="1500MB", pattern=r"^0*[1-9]\d{0,8}(\.\d{1,6})? ?[KMGT]i?B$")
    """DuckDB's memory limit; larger intermediates spill to ``data/tmp``."""
    chunk_rows: int = Field(default=200_000, ge=1, le=100_000_000)
    """Rows that are read or joined at a time."""
    tables: Literal["duckdb", "spark"] = "duckdb"
    """Engine that builds the feature tables from the log; ``spark`` has the settings ``offline_store.spark_conf`` of
    ``feature_store.yaml``. `sidkit profile switch` changes it."""
    partitions: Literal["none", "day"] = "none"
    """``day``: the sources of the feature views are also written in a folder per day, of which a retrieval reads those that its
    rows can see. Run `sidkit apply` after a change."""


class Settings(Section):
    """All settings of a repository.

    Read them with :meth:`load`. The file is written by ``sidkit init`` and edited by users.
    """

    source: SourceSettings = SourceSettings()
    time: TimeSettings = TimeSettings()
    negatives: NegativeSettings = NegativeSettings()
    split: SplitSettings = SplitSettings()
    features: FeatureSettings = FeatureSettings()
    catalog: CatalogSettings = CatalogSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    engine: EngineSettings = EngineSettings()

    @model_validator(mode="after")
    def _base_rate_is_used(self) -> Settings:
        if self.negatives.base_rate is not None and self.source.feedback == "impressions":
            raise ValueError(
                'negatives.base_rate: expected only with source.feedback = "positives_only", got "impressions", whose scores '
                "are rates already; remove it"
            )
        return self

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read ``sidkit.toml``.

        Raises
        ------
        ConfigError
            When the file is missing, is not valid TOML, or has an unknown key or an invalid value.
        """
        return load_model(cls, path)

    def features_hash(self) -> str:
        """Hash of what determines the views and services of ``[features]``; empty if there are none."""
        stated = {**self.features.table_settings, "extra": list(self.features.extra)}
        return content_hash(stated) if any(stated.values()) else ""

    def feature_settings(self) -> dict[str, Any]:
        """The settings that determine the contents of the feature tables, as a flat dict of JSON values."""
        return {
            "source.modalities": list(self.source.content_vectors),
            "source.feedback": self.source.feedback,
            "source.conversions": self.source.conversions,
            "time.availability_delay_seconds": self.time.availability_delay_seconds,
            "time.stats_cadence_seconds": self.time.stats_cadence_seconds,
            "time.history_length": self.time.history_length,
        }


def load_model(model: type[Model], path: Path) -> Model:
    """Read a TOML file into a frozen model. Raises as :meth:`Settings.load`."""
    return validated(model, _toml(path), path)


def _toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise ConfigError(
            f"expected at most {_DEEPEST} levels of nesting in {path}, got more; flatten the file"
        ) from error
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
    raise ConfigError(f"expected at most {_DEEPEST} levels of nesting in {path}, got more; flatten the file")


def validated(model: type[Model], values: dict[str, Any], place: Path | str) -> Model:
    """Validate values that a user gave, in a file or as arguments; paths of plug-ins are relative to that file.

    Raises
    ------
    ConfigError
        When a value is invalid; names ``place``, the key, the reason and the value, without secrets.
    """
    try:
        return model.model_validate(values, context={"folder": place.parent} if isinstance(place, Path) else None)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {scrubbed(problem['msg'])} (got {_shown(problem)})"
            for problem in error.errors()
        )
        # Pydantic's own message repeats the values as they are.
        raise ConfigError(f"{place}: {problems}") from None


def _shown(problem: Any) -> str:
    text = repr(scrubbed_value(problem["input"], str(problem["loc"][-1]) if problem["loc"] else ""))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def resolved_url(text: str) -> str:
    """Resolve a source or URL of the settings: ``env:NAME`` becomes the variable's value.

    The value is never stored, and :func:`sidkit.core.redact.scrubbed` hides its secrets from now on.

    Raises
    ------
    ConfigError
        When the variable is unset or empty.
    """
    if text.startswith(FROM_ENVIRONMENT):
        name = text.removeprefix(FROM_ENVIRONMENT).strip()
        text = os.environ.get(name, "") if name and "\0" not in name else ""
        if not text:
            raise ConfigError(
                f"the environment variable {name!r} is not set, but the settings use {FROM_ENVIRONMENT}{name}; set it to a "
                "folder or a SQLAlchemy URL"
            )
    remember(text)
    return text


def content_hash(value: Any) -> str:
    """Hash a JSON value independently of key order: the first 16 hex digits of its SHA-256."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_section(model: type[Model], path: Path, section: str) -> Model:
    """Read one table of a TOML file into a frozen model; defaults apply if the table is missing.

    Raises
    ------
    ConfigError
        As :func:`load_model`.
    """
    return validated(model, _toml(path).get(section, {}), path)
