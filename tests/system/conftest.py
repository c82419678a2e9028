"""What the tests of whole programs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.places import ROOT


@pytest.fixture(scope="module")
def benchmarks_on_path() -> Iterator[None]:
    """The scripts of ``benchmarks/`` can be imported by name."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(ROOT / "benchmarks"))
        yield
