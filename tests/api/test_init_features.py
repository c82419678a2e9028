"""``[features]`` of a new repository: attributes are on, context columns are listed and off, outcomes have a reason."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

import sidkit
from helpers.attribute_world import attribute_source, attribute_tables
from helpers.builders import moments, write_tables
from helpers.contract_builders import good
from sidkit.core.config import Settings
from sidkit.core.errors import ConfigError
from sidkit.core.feature_settings import FeatureSettings
from sidkit.core.repo import Repo, init_repo

ITEMS = {
    "category": "category", "genres": "categories", "weight": "number",
    "best_before": "date", "organic": "flag", "shape": "vector",
}  # fmt: skip


def test_init_lists_the_attributes_of_a_folder(tmp_path: Path) -> None:
    project = sidkit.init(tmp_path / "repo", attribute_source(tmp_path / "source"))
    features = project.settings.features
    assert (dict(features.items), dict(features.users), dict(features.context)) == (ITEMS, {"country": "category"}, {})
    text = (project.path / "sidkit.toml").read_text()
    assert '# device = "category"' in text
    assert "# dwell_time: known only after the user reacts" in text
    assert "# Off: remove the `#` of columns that are known when a request arrives" in text


def test_a_context_column_is_switched_on_by_removing_its_mark(tmp_path: Path) -> None:
    project = sidkit.init(tmp_path / "repo", attribute_source(tmp_path / "source"))
    path = project.path / "sidkit.toml"
    path.write_text(path.read_text().replace("# device =", "device ="))
    assert dict(Settings.load(path).features.context) == {"device": "category"}


def test_tables_in_memory_may_have_users(tmp_path: Path) -> None:
    tables = attribute_tables(events=300)
    project = sidkit.init(tmp_path / "repo", **tables)
    assert dict(project.settings.features.users) == {"country": "category"}
    project.ingest()
    more = pa.table({"user_id": ["new"], "updated_at": moments([None]), "country": ["fr"]})
    project.ingest(users=more)
    users = pq.read_table(project.path / "source" / "users.parquet")
    assert len(users) == 121
    assert users["country"].to_pylist()[-1] == "fr"
    with pytest.raises(ConfigError, match=r"expected interactions= and items= together"):
        sidkit.init(tmp_path / "other", users=tables["users"])


def test_users_may_come_later(tmp_path: Path) -> None:
    tables = attribute_tables(events=300)
    users = tables.pop("users")
    project = sidkit.init(tmp_path / "repo", **tables)
    project.ingest(users=users)
    assert len(pq.read_table(project.path / "source" / "users.parquet")) == 120


def test_odd_column_names_do_not_break_the_settings(tmp_path: Path) -> None:
    items = good()["items"]
    odd = {
        'a "quoted" name': [1, 2, 3, 4],
        "two\nlines": [1, 2, 3, 4],
        "größe": [1.0, 2.0, 3.0, 4.0],
        "ok": [4, 3, 2, 1],
    }
    for name, values in odd.items():
        items = items.append_column(name, pa.array(values))
    project = sidkit.init(tmp_path / "repo", write_tables(tmp_path / "source", {**good(), "items": items}))
    assert dict(project.settings.features.items) == {"größe": "number", "ok": "number"}


def test_settings_without_features_work_as_before(tmp_path: Path) -> None:
    repo = init_repo(tmp_path / "repo")
    path = repo.path / "sidkit.toml"
    path.write_text(path.read_text().replace("[features]\n", "").replace("extra = ", "# extra = "))
    assert Repo.open(repo.path).settings.features_hash() == ""


def test_the_removal_of_an_item_is_no_attribute() -> None:
    with pytest.raises(ValidationError, match="known only once the item is gone"):
        FeatureSettings(items={"removed_at": "date"})
