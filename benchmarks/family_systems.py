"""The systems that ``benchmarks/family.py`` compares, and the columns of attributes of the data sets."""

from __future__ import annotations

from dataclasses import dataclass

SERVED = "content_codes"
"""The arm that the default preset serves."""
SERVED_AFTER = "content_codes_after"
"""The same on the rows after the window of codebooks that learn from clicks."""
WITH_ATTRIBUTES, SHUFFLED_ATTRIBUTES = "content, attributes as a modality", "content_attributes_shuffled"


@dataclass(frozen=True)
class System:
    """A system: its arm, the same inputs as plain features, and the control."""

    arm: str
    baseline: str
    control: str
    reads: str = ""
    """For a system that adds no trained part: how the names of the parts start that read what it makes."""
    attributes: bool = False
    """Whether it is trained on the data with a modality of attributes, and its control on shuffled ones."""

    clicks: bool = False
    """Whether its codebook learns from clicks, so that it trains on the rows after them."""

    @property
    def others(self) -> dict[str, str]:
        """Role -> the arm that it is compared with, each once."""
        served = {"served": SERVED} | ({"same rows": SERVED_AFTER} if self.clicks else {})
        roles = {"baseline": self.baseline, "control": self.control, **served}
        first = {arm: role for role, arm in reversed(roles.items())}
        return {role: arm for role, arm in roles.items() if arm != self.arm and first[arm] == role}

    @property
    def names(self) -> tuple[str, ...]:
        """Its arm and all that it is compared with."""
        return self.arm, *self.others.values()


SYSTEMS = {
    "SaviorRec": System("saviorrec", "id_content_codes_saviorrec", "id_codes_shuffled", clicks=True),
    "SMILE": System("smile", "id_codes_smile", "id_codes_shuffled", clicks=True),
    "neighbour prior": System("id_content_prior", "id_content", "id_content_prior_random", "id"),
    "LM prior": System("id_content_lm_prior", "id_content", "id_content_lm_prior_random", "id"),
    "LATTICE": System("id_content_graph", "id_content", "id_content_graph_random"),
    "MICRO, MM-GEF": System(
        "id_content_graph_clicks", "id_content_after", "id_content_graph_clicks_random", clicks=True
    ),
    "GateSID": System("gatesid", "id_content", "gatesid_shuffled"),
    "CCFRec": System("ccfrec", "id_content_codes_views", "ccfrec_shuffled"),
    "ColdGPT": System("content_attributes", WITH_ATTRIBUTES, SHUFFLED_ATTRIBUTES, "content", attributes=True),
    "Hi-SAM": System("hisam", "id_codes_shared_private", "hisam_shuffled"),
    "LAMIA": System("id_codes_aspects", "id_codes_after", "id_codes_aspects_shuffled", "sid", clicks=True),
    "PSRQ": System("id_codes_psrq", "id_codes", "id_codes_psrq_shuffled", "sid"),
    "residual k-means + FSQ": System("id_codes_rk_fsq", "id_codes", "id_codes_rk_fsq_shuffled", "sid"),
    "MMQ-v2": System("mmq", "id_content_codes_mass", "mmq_shuffled", clicks=True),
    "MMQ-v2, encoder": System("id_codes_mass", "id_codes_behaviour", "id_codes_mass_shuffled", "sid", clicks=True),
    "Reindex-Then-Adapt, bias": System("id_content_bias", "id_content", "id_content_bias_shuffled"),
    "Reindex-Then-Adapt, gate": System("content_gate", "content", "content_gate_shuffled"),
    "CROSS-JEM": System("id_content_joint", "id_content", "id_content_joint_shuffled"),
    "CMiMC": System("smile_kept", "smile", "smile_kept_shuffled", "rq_opq_gate", clicks=True),
    "HEKP4NBR": System("id_content_groups", "id_content", "id_content_groups_random"),
    "statistics of codes": System("content_codes", "content", "content_codes_shuffled"),
    "later rows alone": System(SERVED_AFTER, SERVED, SERVED),
    "blend by counts": System("blend_counts", "blend", "blend_counts_shuffled"),
}
ATTRIBUTES = {
    "ml_latest_small": ("genres", "year", "language"),
    "xwines_slim": ("category", "country", "region", "grapes", "body", "acidity"),
}
"""Data set -> the columns of its items that ColdGPT reads as attributes."""
