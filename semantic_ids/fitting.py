"""Fit a codebook on content and behaviour before a cut-off and save it as an immutable artefact.

Idempotent: an interrupted fit can be run again with the same result. The catalogue's state is committed last.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from semantic_ids.catalog import Catalog
from semantic_ids.code_stats import STATS, CodeStatsSpec, chosen_stats
from semantic_ids.codebook import Codebook
from semantic_ids.codebook_parts import CodebookParts, make_encoder, make_quantizer
from semantic_ids.encoders import ENCODER_NAMES, Encoder
from semantic_ids.fit_pairs import known_at, pairs_of_fit, refuse_without_pairs
from semantic_ids.neighbour_lists import NEIGHBOURS, NeighbourSpec
from semantic_ids.neighbour_table import co_clicks, lists_of
from semantic_ids.pairs.known_items import KnownItems
from semantic_ids.pairs.mining import ItemPairs, PairSpec
from semantic_ids.quality.code_metrics import code_quality
from semantic_ids.quality.floors import Floors, check_floors
from semantic_ids.quantizers import QUANTIZER_NAMES, Quantizer
from semantic_ids.quantizers.sizes import byte_size, default_sizes
from semantic_ids.records import CodebookRecord
from sidkit.core.arrays import Floats
from sidkit.core.artifact import read_manifest
from sidkit.core.errors import ArtifactCorruptError, ArtifactError, FitError, LifeCycleError, TooFewPairsError
from sidkit.core.extras import require
from sidkit.core.files import remove
from sidkit.core.integrity import say_discarded
from sidkit.core.repo import Repo
from sidkit.core.shards import ShardedWork
from sidkit.tables import read_build
from sidkit.tables.builder import refuse_settings_of_artifacts


class CodebookSpec(CodebookParts):
    """Configuration of a codebook (``[codebook]`` of a preset)."""

    levels: int = Field(default=3, ge=1)
    """Number of residual levels."""
    sizes: tuple[int, ...] | None = None
    """Codes per level; by default the power of two nearest to items / 40 on every level."""
    falling: bool = False
    """If no sizes are given: levels in the ratio 8 : 2 : 1 instead of equal ones; their product is about 6.5 x items."""
    item_bytes: int | None = Field(default=None, ge=1, le=64)
    """Overrides ``levels``: as many levels as bytes per item, each of 256 codes (fewer with fewer than 3 items per
    code). For codes that rankers decode: the default sizes are limited to codes that occur often enough to learn a row for
    each, and decoding learns none."""
    pairs: PairSpec = Field(default_factory=PairSpec)
    """Mining of item pairs, for encoders and quantizers that learn from behaviour."""
    floors: Floors = Field(default_factory=Floors)
    """Minimum code quality; a fit below it fails."""
    force: bool = False
    """Fit even with fewer than 20 items per code."""
    stats: CodeStatsSpec = Field(default_factory=CodeStatsSpec)
    """Counts of events per prefix of codes."""
    neighbours: NeighbourSpec = Field(default_factory=NeighbourSpec)
    """Lists of the nearest items of every item."""

    @model_validator(mode="after")
    def _sizes_are_given_once(self) -> CodebookSpec:
        given = [name for name in ("sizes", "falling") if getattr(self, name)]
        if self.item_bytes is not None and given:
            raise ValueError(f"expected item_bytes or {' and '.join(given)}, got both; remove one of them")
        return self

    @property
    def needs_pairs(self) -> bool:
        """Whether the encoder, the quantizer or a neighbour list learns from pairs of items."""
        return super().needs_pairs or self.neighbours.needs_pairs

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out default statistics and neighbours, and unset bytes: manifests of older releases have none."""
        dumped: dict[str, Any] = dump(self)
        if self.item_bytes is None:
            dumped.pop("item_bytes", None)
        if self.stats == CodeStatsSpec():
            dumped.pop("stats", None)
        if self.neighbours == NeighbourSpec():
            dumped.pop("neighbours", None)
        return dumped


def fit(
    repo: Repo, name: str, spec: CodebookSpec, fit_end_us: int | None = None, work: ShardedWork | None = None
) -> CodebookRecord:
    """Fit a codebook on the items known at ``fit_end_us``.

    If the spec learns from item pairs but the log yields too few, it falls back to the ``content`` encoder and the
    manifest records the reason under ``fallback`` (else null).

    Parameters
    ----------
    repo : Repo
        With built tables.
    name : str
        A new name. Repeating a finished fit changes nothing; if its files are damaged or missing, they are restored,
        provided the fit reproduces the content hash recorded in the catalogue.
    spec : CodebookSpec
        Encoder, quantizer and their arguments.
    fit_end_us : int, optional
        The cut-off, microseconds UTC: only content and clicks available by then are used. Evaluation may start here.
        Default: the as-of time of the tables.
    work : ShardedWork, optional
        Mine pairs in shards (:mod:`semantic_ids.fit_pairs`); the codebook is that of one process.

    Raises
    ------
    ConfigError
        When pairs are to be mined in shards, but the spec learns from none.
    ProcessesError
        When the worker of a shard failed, or a shard was made from other inputs.
    ArtifactError
        When a shard is missing or damaged.
    MissingExtraError
        When an optional package is not installed.
    FitError
        When too few items are known, their vectors cannot be used, or the codes fall below the floors. The fit then
        leaves no record.
    LifeCycleError
        When the name is taken by another codebook.
    SettingsChangedError
        When existing artefacts were made with other feature settings.
    """
    require(*codebook_modules(spec), purpose="this codebook", extra="codes")
    build = read_build(repo)
    refuse_settings_of_artifacts(repo)
    if not repo.settings.source.modalities and spec != without_codes(spec):
        raise FitError(
            "expected vectors to fit codes on, got a source without any (source.modalities = []); compute them with "
            "`sidkit data embed`, and create a new repository for the data with `sidkit init`"
        )
    catalog = Catalog.open(repo)
    if work is not None:
        refuse_without_pairs(spec)
    fit_end_us, known = known_at(repo, fit_end_us)
    encoder, quantizer = build_models(spec, len(known), distinct=known.content.distinct())
    learns = encoder.needs_pairs or quantizer.needs_pairs
    pairs = pairs_of_fit(repo, name, known, fit_end_us, spec.pairs, work) if learns else None
    clicked = co_clicks(repo, known, fit_end_us, spec.neighbours, spec.pairs)
    describe = {
        "fit_start_us": known.first_us,
        "fit_end_us": fit_end_us,
        "parents": [],
        "spec": spec.model_dump(mode="json", exclude={"force", "floors"}),
        "content": known.content.mark(),
        "pairs": pairs.mark() if pairs else None,
        "feature_settings": build["settings"],
        "rows": len(known),
        **({NEIGHBOURS: list(spec.neighbours.lists)} if spec.neighbours.lists else {}),
        **({"co_clicks": clicked.mark()} if clicked is not None else {}),
    }
    done = _already_fitted(repo, catalog, name, describe)
    if done is not None:
        return done
    committed = _committed(catalog, name)
    if committed is None:
        catalog.check_free(name)
    fallback = None
    try:
        codebook, vectors = _learn(name, encoder, quantizer, spec, known, pairs)
    except TooFewPairsError as error:
        fallback = str(error)
        spec = without_pairs(spec)
        encoder, quantizer = build_models(spec, len(known), distinct=known.content.distinct())
        codebook, vectors = _learn(name, encoder, quantizer, spec, known, None)
    codebook.neighbours = lists_of(spec.neighbours, known, codebook.encoder, vectors, clicked)
    codes = codebook.codes_of(vectors)
    stats = chosen_stats(spec.stats, codes, repo.settings.time, quantizer.residual_levels)
    metrics = code_quality(quantizer, vectors, codes, pairs)
    check_floors(metrics, spec.floors)
    describe |= {"fallback": fallback, **({STATS: stats.stated()} if stats else {})}
    if committed is not None:
        return _restore(repo, codebook, committed, describe, metrics)
    catalog.begin_fit(name, spec.quantizer, spec.encoder, codebook.sizes)
    try:
        manifest = codebook.save(repo.codebooks / name, describe, metrics)
    except BaseException:
        if not (repo.codebooks / name).exists():
            catalog.abandon_fit(name)
        raise
    return _commit_fit(catalog, name, manifest, codebook.sizes)


def _learn(
    name: str, encoder: Encoder, quantizer: Quantizer, spec: CodebookSpec, known: KnownItems, pairs: ItemPairs | None
) -> tuple[Codebook, Floats]:
    vectors = encoder.fit(known.content, pairs).encode(known.content)
    quantizer.name_views(encoder.views)
    return Codebook(name, encoder, quantizer.fit(vectors, pairs), spec.beam), vectors


def codebook_modules(spec: CodebookSpec) -> list[str]:
    """Return the optional modules that fitting a codebook needs; plug-ins check their own."""
    modules = ["safetensors"]
    modules += ["faiss"] if spec.quantizer in QUANTIZER_NAMES.built_in else []
    modules += QUANTIZER_NAMES.find(spec.quantizer).modules
    modules += ["torch"] if spec.neighbours.lists else []
    modules += ENCODER_NAMES.find(spec.encoder).modules
    return modules


def without_pairs(spec: CodebookSpec) -> CodebookSpec:
    """The spec with the encoder ``content``, and a quantizer that learns from vectors alone: its own, else the default."""
    arguments = QUANTIZER_NAMES.find(spec.quantizer).arguments_without_pairs(spec.quantizer_arguments)
    own: dict[str, Any] = {"quantizer_arguments": arguments}
    if arguments is None:
        own = {"quantizer": CodebookSpec().quantizer, "quantizer_arguments": {}}
    return spec.model_copy(update={"encoder": "content", "encoder_arguments": {}, **own})


def without_codes(spec: CodebookSpec) -> CodebookSpec:
    """The smallest possible codebook over the same content, for catalogues too small to learn codes from.

    Features and rankers need a codebook version to refer to. Its single level of two codes is a placeholder that no arm
    reads.
    """
    return spec.model_copy(
        update={
            "encoder": "content",
            "encoder_arguments": {},
            "quantizer": "residual_kmeans",
            "quantizer_arguments": {},
            "levels": 1,
            "item_bytes": None,
            "sizes": (2,),
            "falling": False,
            "beam": 1,
            "force": True,
            "floors": Floors(utilisation=0.0, perplexity=0.0),
            "stats": CodeStatsSpec(depths=()),
            "neighbours": NeighbourSpec(),
        }
    )


def build_models(spec: CodebookSpec, items: int, distinct: int | None = None) -> tuple[Encoder, Quantizer]:
    """Instantiate the unfitted encoder and quantizer of a spec for a number of items.

    Default sizes are capped by ``distinct``, the number of different vectors.

    Raises
    ------
    ConfigError
        When the encoder or quantizer is unknown, or does not accept an argument.
    """
    encoder = make_encoder(spec.encoder, spec.encoder_arguments)
    sizes = spec.sizes or default_sizes(items, spec.levels, falling=spec.falling, distinct=distinct)
    if spec.item_bytes is not None:
        sizes = (byte_size(items if distinct is None else distinct),) * spec.item_bytes
    arguments = {"sizes": sizes, "force": spec.force or spec.item_bytes is not None, **spec.quantizer_arguments}
    return encoder, make_quantizer(spec.quantizer, arguments)


def _already_fitted(repo: Repo, catalog: Catalog, name: str, describe: Mapping[str, Any]) -> CodebookRecord | None:
    """The record of a fit that finished, or was interrupted between writing its files and its commit."""
    records = {record.name: record for record in catalog.codebooks()}
    if name not in records:
        return None
    with suppress(ArtifactError):  # no intact copy is shared: it is fitted again
        catalog.artifacts.fetched(records[name])
    if not (repo.codebooks / name).exists():
        return None
    try:
        manifest = read_manifest(repo.codebooks / name)
    except ArtifactCorruptError as error:
        say_discarded(error.path, error.problem)
        if records[name].state == "fitting":
            remove(repo.codebooks / name)
        return None
    if any(manifest.get(key) != value for key, value in describe.items()):
        raise LifeCycleError(
            name,
            records[name].state,
            "it was fitted on different data or with different arguments; fit under a new name",
        )
    if records[name].state == "fitting":
        return _commit_fit(catalog, name, manifest, Codebook.load(repo.codebooks / name).sizes)
    return records[name]


def _committed(catalog: Catalog, name: str) -> CodebookRecord | None:
    """The record of a fully fitted, unpurged codebook; None if no such codebook exists."""
    record = {record.name: record for record in catalog.codebooks()}.get(name)
    return record if record is not None and record.state not in {"fitting", "purged"} else None


def _restore(
    repo: Repo, codebook: Codebook, committed: CodebookRecord, describe: Mapping[str, Any], metrics: Mapping[str, Any]
) -> CodebookRecord:
    """Replace damaged or missing files of a committed codebook, provided the new fit has the same content hash."""
    folder, beside = repo.codebooks / committed.name, repo.codebooks / f".restored-{committed.name}"
    remove(beside)
    manifest = codebook.save(beside, describe, metrics)
    if manifest["content_hash"] != committed.content_hash:
        remove(beside)
        raise LifeCycleError(
            committed.name,
            committed.state,
            "its files are damaged or missing, and this fit does not reproduce the codebook recorded in the catalogue; "
            "restore its folder from a backup, or fit under a new name",
        )
    remove(folder)
    beside.rename(folder)
    Catalog.open(repo).artifacts.publish_codebook(committed.name)
    return committed


def _commit_fit(catalog: Catalog, name: str, manifest: Mapping[str, Any], sizes: tuple[int, ...]) -> CodebookRecord:
    catalog.end_fit(
        name,
        content_hash=manifest["content_hash"],
        sizes=sizes,
        fit_start_us=manifest["fit_start_us"],
        fit_end_us=manifest["fit_end_us"],
    )
    return catalog.codebook(name)
