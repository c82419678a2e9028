"""Remedies for damaged files: one table of the commands that rebuild them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

SETTINGS_FILE = "sidkit.toml"

_COMMANDS = (
    (r"data/log/.*", "read the source again with `sidkit data ingest --rebuild --repo {repo}`"),
    (
        r"data/tables/(?:item_sid|code_stats|user_code_stats)_(\w+)\.\w+",
        "rebuild it with `sidkit codebooks refresh {name} --repo {repo}`",
    ),
    (
        r"data/tables/sid_suffix_(\w+)\.\w+",
        "restore it from a backup, or renumber the items with `sidkit codebooks suffixes {name} --rebuild --repo {repo}`",
    ),
    (r"data/tables/.*", "rebuild the tables with `sidkit tables build --rebuild --repo {repo}`"),
    (r"data/rows\.\w+", "rebuild it with `sidkit tables rows --repo {repo}`"),
    (
        r"artifacts/codebooks/([^/]+).*",
        "restore the folder from a backup, or run the `sidkit run` or `sidkit codebooks fit {name} --repo {repo}` that made it "
        "again with the same arguments: damaged files are replaced if the fit gives the same codebook",
    ),
    (
        r"artifacts/rankers/([^/]+).*",
        "restore the folder from a backup, or run the `sidkit run --repo {repo}` that made it again with the same arguments, "
        "which retrains {name}",
    ),
    (
        r"artifacts/runs/([^/]+).*",
        "run the `sidkit run` or `sidkit ranker compare` that made it again with the same arguments and --repo {repo}, which "
        "rebuilds damaged files",
    ),
)
_ELSEWHERE = "restore the folder from a backup, or delete it and run the command that made it again"


def remedy(path: Path) -> str:
    """How to repair a damaged file, as an imperative with the command in backticks.

    Parameters
    ----------
    path : Path
        The file or folder; if it is inside a repository, the command names the repository.
    """
    repo = next((folder for folder in path.parents if (folder / SETTINGS_FILE).is_file()), None)
    if repo is None:
        return _ELSEWHERE
    inside = path.relative_to(repo).as_posix()
    for pattern, text in _COMMANDS:
        match = re.fullmatch(pattern, inside)
        if match:
            return text.format(repo=shlex.quote(str(repo)), name=match[1] if match.groups() else "")
    return _ELSEWHERE
