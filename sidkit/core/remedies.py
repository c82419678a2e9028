"""Which command makes a damaged file of a repo anew: one table for all errors."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

SETTINGS_FILE = "sidkit.toml"

_COMMANDS = (
    (r"data/log/.*", "read the source again with `sidkit data ingest --rebuild --repo {repo}`"),
    (r"data/tables/item_sid_(\w+)\.\w+", "make it anew with `sidkit codebooks refresh {name} --repo {repo}`"),
    (
        r"data/tables/sid_suffix_(\w+)\.\w+",
        "restore it from a copy, or number the items anew with `sidkit codebooks suffixes {name} --rebuild --repo {repo}`",
    ),
    (r"data/tables/.*", "make the tables anew with `sidkit tables build --rebuild --repo {repo}`"),
    (r"data/rows\.\w+", "make it anew with `sidkit tables rows --repo {repo}`"),
    (
        r"artifacts/codebooks/([^/]+).*",
        "restore the folder from a copy, or run the `sidkit run` or `sidkit codebooks fit {name} --repo {repo}` that made it "
        "again with the same arguments: it replaces damaged files where the fit gives the same codebook",
    ),
    (
        r"artifacts/rankers/([^/]+).*",
        "restore the folder from a copy, or run the `sidkit run --repo {repo}` that made it again with the same arguments: it "
        "trains {name} anew",
    ),
    (
        r"artifacts/runs/([^/]+).*",
        "run the `sidkit run` or `sidkit ranker compare` that made it again with the same arguments and --repo {repo}: it "
        "makes what is damaged anew",
    ),
)
_ELSEWHERE = "restore the folder from a copy, or delete it and run the command that made it again"


def remedy(path: Path) -> str:
    """What to do about a damaged file, as an imperative with the command in backticks.

    Parameters
    ----------
    path : Path
        The file or the folder; inside a repo the command names the repo.
    """
    repo = next((folder for folder in path.parents if (folder / SETTINGS_FILE).is_file()), None)
    if repo is None:
        return _ELSEWHERE
    inside = path.relative_to(repo).as_posix()
    for pattern, text in _COMMANDS:
        found = re.fullmatch(pattern, inside)
        if found:
            return text.format(repo=shlex.quote(str(repo)), name=found[1] if found.groups() else "")
    return _ELSEWHERE
