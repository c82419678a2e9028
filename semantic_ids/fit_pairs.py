"""The items and the pairs that a fit learns from; pairs may be mined in shards, by workers of their own."""

from __future__ import annotations

from collections.abc import Sequence

from semantic_ids.codebook_parts import CodebookParts
from semantic_ids.encoders import ContentEncoder
from semantic_ids.pairs.known_items import KnownItems, known_items, pairs_among
from semantic_ids.pairs.mining import ItemPairs, PairSpec
from semantic_ids.pairs.shards import PairShards
from sidkit.core.arrays import Floats
from sidkit.core.clock import iso
from sidkit.core.errors import ConfigError, FitError
from sidkit.core.repo import Repo
from sidkit.core.shards import Shard, ShardedWork
from sidkit.tables import read_build


def known_at(repo: Repo, fit_end_us: int | None) -> tuple[int, KnownItems]:
    """The cut-off of a fit, by default the as-of time of the tables, and the items known then.

    Raises
    ------
    FitError
        When the cut-off is later than the tables, or no item was known.
    """
    as_of_us = int(read_build(repo)["as_of_us"])
    end_us = as_of_us if fit_end_us is None else fit_end_us
    if end_us > as_of_us:
        raise FitError(
            f"the cut-off {iso(end_us)} is later than the feature tables ({iso(as_of_us)}); rebuild the tables with a later "
            "--as-of, or choose an earlier cut-off"
        )
    known = known_items(repo, end_us)
    if len(known) == 0:
        raise FitError(f"no item with content was known at {iso(end_us)}; choose a later cut-off")
    return end_us, known


def pairs_of_fit(
    repo: Repo, name: str, known: KnownItems, end_us: int, spec: PairSpec, work: ShardedWork | None = None
) -> ItemPairs:
    """Mine the pairs of a fit, or put together what the workers of its shards have mined.

    Raises
    ------
    ArtifactMissingError, ProcessesError, ArtifactCorruptError
        When a shard is missing, was made from other inputs, or is damaged, or its worker failed.
    """
    vectors = _vectors(known)
    mined = None
    if work is not None:
        mined = PairShards(repo, known, vectors, end_us, spec, name, work.command).miner(work)
    return pairs_among(repo, known, vectors, end_us, spec, mined=mined)


def mine_shard(
    repo: Repo,
    name: str,
    parts: CodebookParts,
    spec: PairSpec,
    shard: Shard,
    fit_end_us: int | None = None,
    command: Sequence[str] = (),
) -> bool:
    """Mine the pairs of one shard of users for a fit; the repository's lock is not needed.

    Parameters
    ----------
    repo : Repo
        With built tables.
    name : str
        The codebook to be fitted.
    parts : CodebookParts
        Its encoder and quantizer.
    spec : PairSpec
        Sources and caps of the pairs.
    shard : Shard
        The users whose clicks are counted.
    fit_end_us : int, optional
        The cut-off of the fit, microseconds UTC; default: the as-of time of the tables.
    command : sequence of str
        Arguments of ``sidkit`` that mine a shard, for messages.

    Returns
    -------
    bool
        Whether it was mined; False if the shard was finished before.

    Raises
    ------
    ConfigError
        When the codebook learns from no pairs.
    FitError
        When no item is known at the cut-off.
    """
    refuse_without_pairs(parts)
    end_us, known = known_at(repo, fit_end_us)
    return PairShards(repo, known, _vectors(known), end_us, spec, name, command).make(shard)


def refuse_without_pairs(parts: CodebookParts) -> None:
    """Raise if a codebook learns from no pairs, whose mining could be done in shards.

    Raises
    ------
    ConfigError
        Names encoder and quantizer.
    """
    if not parts.parts_need_pairs:
        raise ConfigError(
            f"expected a codebook that learns from pairs of items, got encoder {parts.encoder!r} and quantizer "
            f"{parts.quantizer!r}, which do not; leave out --shards, or use a preset such as saviorrec"
        )


def _vectors(known: KnownItems) -> Floats:
    return ContentEncoder().fit(known.content).encode(known.content)
