"""``feature_store.yaml``: the class paths of the stores and the engine, which moved in version 0.1.0."""

from __future__ import annotations

import re

from sidkit.core.files import written_beside
from sidkit.core.repo import FEAST_FILE, Repo
from sidkit.stores.old_paths import NEW_PATHS


def rename_class_paths(repo: Repo) -> list[str]:
    """Replace old class paths by the new ones; the rest of the file is unchanged.

    The step runs for every format, because users edit this file: it may name an old path in a repository of any format.
    """
    path = repo.path / FEAST_FILE
    text = path.read_text(encoding="utf-8")
    old = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, NEW_PATHS))})(?![\w.])")
    renamed = old.sub(lambda match: NEW_PATHS[match[1]], text)
    if renamed == text:
        return []
    with written_beside(path) as temporary:
        temporary.write_text(renamed, encoding="utf-8")
    return [f"{FEAST_FILE}: {name} is now {NEW_PATHS[name]}" for name in dict.fromkeys(old.findall(text))]
