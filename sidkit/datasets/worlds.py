"""Frozen parameters of the synthetic worlds. A test pins their hash, so that no world is tuned to a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sidkit.core.config import content_hash


@dataclass(frozen=True)
class WorldParameters:
    """All parameters of a synthetic world except sizes and the seed, which are arguments."""

    days: int = 60
    start_us: int = 1_704_067_200_000_000  # 2024-01-01T00:00:00Z
    epochs_per_day: int = 4  # how often the set of available items is renewed
    slots: int = 10
    candidates: int = 16  # drawn per request; the distinct first `slots` are shown

    latent_dim: int = 16
    clusters: int = 40
    cluster_spread: float = 0.55  # of items around their cluster centre; centres have unit variance per axis
    user_interests: int = 3  # clusters that a user mixes
    user_drift: float = 0.9  # radians that a user's taste rotates over the whole time
    item_drift: float = 0.5  # length of an item's move over the whole time, in units of the spread of items

    intercept: float = -2.93
    affinity_weight: float = 0.9
    quality_weight: float = 0.6  # quality is N(0, 1); content shows only the part that clusters share
    position_weight: float = -0.12  # per position
    conversion_intercept: float = -2.3
    conversion_quality: float = 0.5

    popularity_spread: float = 1.0
    popularity_quality: float = 0.4
    new_item_days: float = 3.0
    new_item_exposure: float = 0.35  # factor on the exposure of items younger than that
    user_activity_spread: float = 1.0
    policy_quality: float = 0.3  # how much the ranking of a page depends on quality

    late_share: float = 0.3  # items created in the last `late_window` of the time
    late_window: float = 0.4
    early_share: float = 0.2  # items created before that; the rest are older than the log
    older_days: float = 60.0
    removed_share: float = 0.05

    text_dim: int = 64
    image_dim: int = 48
    text_noise: float = 0.5  # standard deviation per axis, in units of the signal's
    image_noise: float = 1.2
    image_missing: float = 0.2
    content_sight: float = 0.0  # correlation of content with the item latent

    quality_from_cluster: float = 0.0  # correlation of quality with a quality that the items of a cluster share
    policy_affinity: float = 0.0  # how much the ranking of a page depends on the user's affinity
    impressions_per_item: int = 50  # the default number of items


WORLDS: dict[str, WorldParameters] = {
    "strong": WorldParameters(content_sight=0.97),
    "weak": WorldParameters(content_sight=0.6),
    "none": WorldParameters(content_sight=0.0),
    # Items of a cluster share most of their quality, pages depend on the user, and new items keep coming.
    "clustered": WorldParameters(
        content_sight=0.97,
        clusters=80,
        intercept=-3.3,
        quality_from_cluster=0.8,
        quality_weight=0.8,
        candidates=32,
        policy_affinity=1.0,
        impressions_per_item=15,
        late_share=0.5,
        early_share=0.4,
        new_item_exposure=1.0,
    ),
}

_ADDED_LATER = ("quality_from_cluster", "policy_affinity", "impressions_per_item")


def worlds_hash(*names: str) -> str:
    """Hash of the parameters of worlds, pinned by tests.

    Parameters that were added after the first worlds count only where they differ from their default, so that the hash of
    the first worlds stays what it was.
    """
    default = asdict(WorldParameters())
    parameters = {
        name: {
            key: value
            for key, value in asdict(WORLDS[name]).items()
            if key not in _ADDED_LATER or value != default[key]
        }
        for name in names
    }
    return content_hash(parameters)


CATEGORY_WORDS = (
    "amber",
    "basil",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "haven",
    "ivory",
    "jade",
    "karst",
    "lotus",
    "maple",
    "north",
    "ocean",
    "pearl",
    "quartz",
    "raven",
    "sable",
    "thyme",
    "umber",
    "violet",
    "willow",
    "xenon",
    "yarrow",
    "zephyr",
    "agate",
    "birch",
    "coral",
    "dune",
    "elm",
    "fern",
    "garnet",
    "hazel",
    "iris",
    "juniper",
    "kelp",
    "lilac",
    "moss",
    "nectar",
)
"""One word per category of items, for their titles."""
