"""The tests on one of Feast's own stores: one line of ``feature_store.yaml`` is switched in a copy of this checkout.

    PYTHONPATH=tests python -m helpers.switched offline|online [arguments of pytest]

Whatever makes a repo - tests, command lines in processes of their own, the plain ``feast`` - copies the switched file. What a
test asks of the kit's own store alone is skipped with its reason (the mark ``own_store``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.places import ROOT

FEAST_FILE = Path("feature_repo") / "feature_store.yaml"
OWN = {
    "offline": "sidkit.stores.offline.AsofDuckDBOfflineStore",
    "online": "sidkit.stores.online.PackedSqliteOnlineStore",
}
STOCK = {"offline": "duckdb", "online": "sqlite"}


def switched(root: Path = ROOT) -> set[str]:
    """Which of ``offline`` and ``online`` a checkout's ``feature_store.yaml`` leaves to Feast's own store."""
    text = (root / FEAST_FILE).read_text()
    return {kind for kind, own in OWN.items() if f"type: {own}\n" not in text}


def copied(to: Path, kind: str) -> Path:
    """A copy of this checkout with one line switched."""
    left_out = shutil.ignore_patterns(".*", "__pycache__", "demo", "*.egg-info")
    shutil.copytree(ROOT, to, ignore=left_out)
    for name in (".github", "feature_repo/.feastignore"):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, to / name)
        elif path.exists():
            shutil.copy(path, to / name)
    path = to / FEAST_FILE
    text = path.read_text()
    assert text.count(f"  type: {OWN[kind]}\n") == 1, f"{path} does not name {OWN[kind]} once"
    path.write_text(text.replace(f"  type: {OWN[kind]}\n", f"  type: {STOCK[kind]}\n"))
    return to


def main() -> None:
    """Run pytest in the copy; its exit status is this one's."""
    kind, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="sidkit-switched-") as folder:
        root = copied(Path(folder) / "checkout", kind)
        data = os.environ.get("SIDKIT_DATA", str(ROOT.parent / "shared" / "data"))
        told = {**os.environ, "PYTHONPATH": str(root), "SIDKIT_DATA": str(Path(data).absolute())}
        sys.stdout.write(f"feature_store.yaml names {STOCK[kind]} as the {kind} store\n")
        sys.stdout.flush()
        done = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=root, env=told, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
