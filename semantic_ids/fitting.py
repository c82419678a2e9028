"""Fitting a codebook: content and behaviour before a cut-off in, an immutable artefact out.

Idempotent: killed and run again, a fit ends where an undisturbed one ends. The catalogue's state commits last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook, make_encoder, make_quantizer
from semantic_ids.encoders import ContentEncoder, Encoder
from semantic_ids.pairs.known_items import KnownItems, known_items, pairs_among
from semantic_ids.pairs.mining import ItemPairs, PairSpec
from semantic_ids.quality.code_metrics import code_quality
from semantic_ids.quality.floors import Floors, check_floors
from semantic_ids.quantizers import QUANTIZERS, Quantizer
from semantic_ids.quantizers.base import LEAST_ITEMS, ROWS_PER_CODE, default_size, most_codes
from semantic_ids.records import CodebookRecord
from sidkit.core.arrays import Floats
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import iso
from sidkit.core.config import Section
from sidkit.core.errors import ArtifactCorruptError, ConfigError, FitError, LifeCycleError, TooFewPairsError
from sidkit.core.files import remove
from sidkit.core.integrity import say_discarded
from sidkit.core.repo import Repo
from sidkit.tables import read_build
from sidkit.tables.builder import refuse_settings_of_artifacts


class CodebookSpec(Section):
    """How a codebook is made (``[codebook]`` of a preset)."""

    encoder: str = "content"
    encoder_arguments: dict[str, Any] = Field(default_factory=dict)
    quantizer: str = "residual_kmeans"
    quantizer_arguments: dict[str, Any] = Field(default_factory=dict)
    levels: int = Field(default=3, ge=1)
    sizes: tuple[int, ...] | None = None
    """Codes per level; by default the power of two nearest items / 40, on every level."""
    falling: bool = False
    """Where no sizes are given: 8 : 2 : 1 instead of equal levels, their product about 6.5 times the items."""
    beam: int = Field(default=1, ge=1)
    pairs: PairSpec = Field(default_factory=PairSpec)
    """How behaviour is mined, for encoders and quantizers that learn from it."""
    floors: Floors = Field(default_factory=Floors)
    """Codes that fall below are not kept."""
    force: bool = False
    """Fit though there are under 20 items per code."""

    @property
    def needs_pairs(self) -> bool:
        """Whether the encoder or the quantizer learns from pairs of items."""
        return any(learner.needs_pairs for learner in made(self, LEAST_ITEMS))


def fit(repo: Repo, name: str, spec: CodebookSpec, fit_end_us: int) -> CodebookRecord:
    """Fit a codebook on the items that were known at ``fit_end_us``.

    Where the spec learns from pairs of items and behaviour gives too few, the encoder ``content`` takes its place, and the
    manifest says so (``fallback``: the reason, else null).

    Parameters
    ----------
    repo : Repo
        With built tables.
    name : str
        A new name; the same fit again is kept as it is. Where its files are damaged or missing they are made anew, if the
        fit gives the codebook that the catalogue committed.
    spec : CodebookSpec
        Encoder, quantizer and their arguments.
    fit_end_us : int
        The cut-off, microseconds UTC: only content and clicks that could be read by then are used. Evaluation may start
        here.

    Raises
    ------
    FitError
        When too few items are known, their vectors cannot be used, or the codes fall below the floors. No record of the
        fit is left then.
    LifeCycleError
        When the name is taken by another codebook.
    SettingsChangedError
        When existing artefacts were made with other feature settings.
    """
    build = read_build(repo)
    refuse_settings_of_artifacts(repo)
    if fit_end_us > build["as_of_us"]:
        raise FitError(
            f"the cut-off {iso(fit_end_us)} lies beyond the tables ({iso(build['as_of_us'])}); build them further first"
        )
    catalog = Catalog.open(repo)
    known = known_items(repo, fit_end_us)
    if len(known) == 0:
        raise FitError(f"no item with content was known at {iso(fit_end_us)}; choose a later cut-off")
    encoder, quantizer = made(spec, len(known), distinct=known.content.distinct())
    pairs = _pairs(repo, known, fit_end_us, spec, encoder, quantizer)
    describe = {
        "fit_start_us": known.first_us,
        "fit_end_us": fit_end_us,
        "parents": [],
        "spec": spec.model_dump(mode="json", exclude={"force", "floors"}),
        "content": known.content.mark(),
        "pairs": pairs.mark() if pairs else None,
        "feature_settings": build["settings"],
        "rows": len(known),
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
        spec = without_pairs(spec, quantizer)
        encoder, quantizer = made(spec, len(known), distinct=known.content.distinct())
        codebook, vectors = _learn(name, encoder, quantizer, spec, known, None)
    metrics = code_quality(quantizer, vectors, codebook.codes_of(vectors), pairs)
    check_floors(metrics, spec.floors)
    if committed is not None:
        return _restore(repo, codebook, committed, {**describe, "fallback": fallback}, metrics)
    catalog.begin_fit(name, spec.quantizer, spec.encoder, quantizer.sizes)
    try:
        manifest = codebook.save(repo.codebooks / name, {**describe, "fallback": fallback}, metrics)
    except BaseException:
        if not (repo.codebooks / name).exists():
            catalog.abandon_fit(name)
        raise
    return _commit_fit(catalog, name, manifest, codebook.sizes)


def _learn(
    name: str, encoder: Encoder, quantizer: Quantizer, spec: CodebookSpec, known: KnownItems, pairs: ItemPairs | None
) -> tuple[Codebook, Floats]:
    vectors = encoder.fit(known.content, pairs).encode(known.content)
    return Codebook(name, encoder, quantizer.fit(vectors, pairs), spec.beam), vectors


def without_pairs(spec: CodebookSpec, quantizer: Quantizer) -> CodebookSpec:
    """The spec with the encoder ``content``, and a quantizer that learns from vectors alone."""
    arguments = {**spec.quantizer_arguments, **({"contrast": 0.0} if quantizer.needs_pairs else {})}
    return spec.model_copy(update={"encoder": "content", "encoder_arguments": {}, "quantizer_arguments": arguments})


def without_codes(spec: CodebookSpec) -> CodebookSpec:
    """The smallest codebook over the same content, for catalogues that no codes can be learned from.

    Features and rankers need a codebook version to refer to; its one level of two codes means nothing and no arm reads it.
    """
    return spec.model_copy(
        update={
            "encoder": "content", "encoder_arguments": {}, "quantizer": "residual_kmeans", "quantizer_arguments": {},
            "levels": 1, "sizes": (2,), "falling": False, "beam": 1, "force": True,
            "floors": Floors(utilisation=0.0, perplexity=0.0),
        }
    )  # fmt: skip


def made(spec: CodebookSpec, items: int, distinct: int | None = None) -> tuple[Encoder, Quantizer]:
    """The encoder and the quantizer that a spec describes for so many items, not fitted yet.

    Default sizes have no more codes than ``distinct``, the number of different vectors, allows.

    Raises
    ------
    ConfigError
        When there is no such encoder or quantizer, or it does not know an argument.
    """
    encoder = make_encoder(spec.encoder, spec.encoder_arguments)
    if spec.quantizer not in QUANTIZERS:
        raise ConfigError(f"no quantizer {spec.quantizer!r}; there are {', '.join(QUANTIZERS)}")
    chosen = falling_sizes(items, spec.levels) if spec.falling else (default_size(items),) * spec.levels
    if distinct is not None:
        chosen = tuple(min(size, max(2, 2 ** (distinct.bit_length() - 1))) for size in chosen)
    arguments = {"sizes": spec.sizes or chosen, "force": spec.force, **spec.quantizer_arguments}
    return encoder, make_quantizer(spec.quantizer, arguments)


def falling_sizes(items: int, levels: int = 3) -> tuple[int, ...]:
    """Codes per level in the ratio 8 : 2 : 1 (1 : 4 between any levels before), as powers of two, so that their product
    is about 6.5 times the items: (128, 32, 16) for 10,000 items, (256, 64, 32) for 100,000 (house rule after OneSearch,
    arXiv 2509.03236, which uses (4096, 1024, 512)). Fewer where a level would have under 20 items per code.
    """
    ratios = [1, 2, *(8 * 4**step for step in range(levels))][:levels][::-1]
    last = (6.5 * items / math.prod(ratios)) ** (1 / levels)
    unit = 2 ** max(1, round(math.log2(max(last, 2))))
    while unit > 2 and ROWS_PER_CODE * unit * ratios[0] > items:
        unit //= 2
    return tuple(min(unit * ratio, most_codes(items)) for ratio in ratios)


def _pairs(
    repo: Repo, known: KnownItems, fit_end_us: int, spec: CodebookSpec, encoder: Encoder, quantizer: Quantizer
) -> ItemPairs | None:
    if not (encoder.needs_pairs or quantizer.needs_pairs):
        return None
    vectors = ContentEncoder().fit(known.content).encode(known.content)
    return pairs_among(repo, known, vectors, fit_end_us, spec.pairs)


def _already_fitted(repo: Repo, catalog: Catalog, name: str, describe: Mapping[str, Any]) -> CodebookRecord | None:
    """The record of a fit that was finished, or killed between its files and its commit."""
    records = {record.name: record for record in catalog.codebooks()}
    if name not in records or not (repo.codebooks / name).exists():
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
            name, records[name].state, "it was fitted on other data or with other arguments; fit under a new name"
        )
    if records[name].state == "fitting":
        return _commit_fit(catalog, name, manifest, Codebook.load(repo.codebooks / name).sizes)
    return records[name]


def _committed(catalog: Catalog, name: str) -> CodebookRecord | None:
    """The record of a codebook whose fit was committed and that is in use, None where there is none of that name."""
    there = {record.name: record for record in catalog.codebooks()}.get(name)
    return there if there is not None and there.state not in {"fitting", "purged"} else None


def _restore(
    repo: Repo, codebook: Codebook, committed: CodebookRecord, describe: Mapping[str, Any], metrics: Mapping[str, Any]
) -> CodebookRecord:
    """Put the files of a committed codebook in the place of damaged or missing ones, if they are the same."""
    folder, beside = repo.codebooks / committed.name, repo.codebooks / f".restored-{committed.name}"
    remove(beside)
    manifest = codebook.save(beside, describe, metrics)
    if manifest["content_hash"] != committed.content_hash:
        remove(beside)
        raise LifeCycleError(
            committed.name, committed.state,
            "its files are damaged or missing, and this fit gives another codebook than the catalogue committed; restore "
            "its folder from a copy, or fit under a new name",
        )  # fmt: skip
    remove(folder)
    beside.rename(folder)
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
