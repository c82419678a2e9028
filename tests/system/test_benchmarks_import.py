"""Every benchmark can be imported: what it calls exists under the name that it calls."""

from __future__ import annotations

import subprocess
import sys

from helpers.places import ROOT

IMPORT_ALL = """
import importlib, sys
sys.path.insert(0, "benchmarks")
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_every_benchmark_can_be_imported() -> None:
    # Workers run in environments of the peers that they measure.
    names = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.endswith("_worker"))
    assert {"adapters", "family", "gates", "serving"} <= set(names)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
