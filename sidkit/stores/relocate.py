"""Make a copied or moved repository independent of the folder that it comes from."""

from __future__ import annotations

import re
from pathlib import Path

from sidkit.core.files import make_private, written_beside
from sidkit.core.repo import SETTINGS_FILE, Repo, within
from sidkit.stores.feast_repo import apply_repo
from sidkit.stores.registry_path import former_folder, own_registry


def relocate(repo: Repo) -> list[str]:
    """Rewrite the absolute paths in ``feature_store.yaml``, ``sidkit.toml`` and the registry.

    Reading a copy needs none of this with the kit's stores; with Feast's own offline stores, and for the plain ``feast apply``,
    run it once. Hold the repository's lock. Running it again changes nothing.

    Returns
    -------
    list of str
        A line per change.

    Raises
    ------
    RepoError
        When the definitions cannot be applied.
    """
    former = former_folder(repo.path)
    changes = [*_own_source(repo, former), *own_registry(repo)]
    if former is not None:
        changes.append(f"the registry's sources are in {repo.path}, no longer in {former}")
    if changes:
        apply_repo(repo)
    return changes


def _own_source(repo: Repo, former: Path | None) -> list[str]:
    """Make the path of a source inside the repository relative, if the repository has it."""
    path = repo.path / SETTINGS_FILE
    text = path.read_text(encoding="utf-8")
    stated = re.search(r'(?m)^url = "(/[^"\\]*)"', text)
    if stated is None:
        return []
    url = Path(stated[1])
    if former is not None and former in url.parents and (repo.path / url.relative_to(former)).exists():
        url = repo.path / url.relative_to(former)
    relative = within(repo.path, str(url))
    if relative == str(url):
        return []
    with written_beside(path) as temporary:
        make_private(temporary)  # a URL may hold a password
        temporary.write_text(text.replace(stated[0], f'url = "{relative}"', 1), encoding="utf-8")
    repo.__dict__.pop("settings", None)
    return [f"{SETTINGS_FILE}: source.url is {relative}"]
