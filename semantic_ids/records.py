"""What the catalogue tells: one codebook, one ranker, and what the feature definitions need to know."""

from __future__ import annotations

from dataclasses import dataclass

from sidkit.core.clock import iso


@dataclass(frozen=True)
class CodebookRecord:
    """One codebook as the catalogue knows it."""

    name: str
    state: str
    defined: bool
    content_hash: str
    quantizer: str
    encoder: str
    sizes: tuple[int, ...]
    fit_start_us: int
    fit_end_us: int
    changed_at_us: int

    @property
    def levels(self) -> int:
        """Codes per item."""
        return len(self.sizes)

    @property
    def has_codes(self) -> bool:
        """Whether items were given codes that can be read: published, and not purged."""
        return self.state in {"published", "serving", "retired"}

    @property
    def view_name(self) -> str:
        """The feature view, and the table in ``data/tables``, of this codebook."""
        return f"item_sid_{self.name}"

    @property
    def service_name(self) -> str:
        """The feature service of rankers on this codebook."""
        return f"ctr_{self.name}"

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"{self.quantizer} of {'x'.join(map(str, self.sizes))} codes on {self.encoder} vectors"

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the codebook's view and services."""
        return {
            "codebook": self.name,
            "codebook_hash": self.content_hash,
            "fit_start": iso(self.fit_start_us),
            "fit_end": iso(self.fit_end_us),
            "quantizer": self.quantizer,
            "encoder": self.encoder,
            "sizes": "x".join(map(str, self.sizes)),
        }


@dataclass(frozen=True)
class RankerRecord:
    """One ranker as the catalogue knows it."""

    name: str
    state: str
    content_hash: str
    codebook: str
    service: str
    arm: str
    fit_end_us: int
    changed_at_us: int


@dataclass(frozen=True)
class Definitions:
    """What the feature definitions need to know."""

    modalities: tuple[str, ...]
    codebooks: tuple[CodebookRecord, ...]
    owner: str
    tags: dict[str, str]
