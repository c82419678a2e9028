"""What came after a fit judges its codes: from the future only, and the same figures wherever they are told."""

from __future__ import annotations

import pytest

from helpers.builders import FinishedJob
from ranking.pipeline.prepare import end_of_log
from semantic_ids.catalog import Catalog
from semantic_ids.quality.future_hit_rate import future_hits
from semantic_ids.quality.hit_rate import NotMeasured
from sidkit.core.errors import FitError
from sidkit.core.files import read_json


def test_a_codebook_is_judged_beside_its_baselines(finished: FinishedJob) -> None:
    name = finished.output["codebook"]["name"]
    report = future_hits(finished.repo, [name], end_of_log(finished.repo), baselines=True)
    assert report is not None
    assert set(report.hits) == {name, f"{name}:decoded", f"{name}:codes", "popularity", "content", "collaborative"}
    for way in report.hits:
        rate = report.rate(way)
        assert rate is not None and 0 <= rate.low <= rate.value <= rate.high <= 1


def test_the_job_tells_the_figures_of_seen_and_new_targets(finished: FinishedJob) -> None:
    name, told = finished.output["codebook"]["name"], finished.output["codebook"]["hit_rate_30"]
    kept = read_json(finished.repo.runs / "fast" / "hit_rate.json")["rates"][name]
    assert told == {part: kept[part]["value"] for part in ("seen", "new")}


def test_nothing_after_the_fit_gives_no_figures(finished: FinishedJob) -> None:
    record = Catalog.open(finished.repo).codebook(finished.output["codebook"]["name"])
    found = future_hits(finished.repo, [record.name], record.fit_end_us)
    assert isinstance(found, NotMeasured)
    assert "no later event is known" in found.reason


def test_codebooks_of_different_moments_are_not_judged_together(finished: FinishedJob) -> None:
    with pytest.raises(FitError, match="codebooks with the same fit_end"):
        future_hits(finished.repo, [], 1)
