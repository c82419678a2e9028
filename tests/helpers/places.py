"""Where the tests and the project lie."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
PRESETS = TESTS / "presets"
EXAMPLES = ROOT / "examples"
