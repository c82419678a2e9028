"""Format 2: the JSON files beside tables of codes have hashes, and suffix records get such a file."""

from __future__ import annotations

from sidkit.core.integrity import hashes_of, write_sealed
from sidkit.core.repo import Repo
from sidkit.upgrade.sealing import exactly, seal_manifest


def seal_codes(repo: Repo) -> list[str]:
    """Add hashes beside every ``item_sid_<codebook>.parquet`` and ``sid_suffix_<codebook>.parquet``."""
    done = []
    for path in sorted(repo.tables.glob("item_sid_*.parquet")):
        done += seal_manifest(path.with_suffix(".json"), exactly(path.name))
    for path in sorted(repo.tables.glob("sid_suffix_*.parquet")):
        if not path.with_suffix(".json").exists():
            write_sealed(path.with_suffix(".json"), {"files": hashes_of(path.parent, [path.name])})
            done.append(f"{path.with_suffix('.json')}: hash of {path.name}")
    return done
