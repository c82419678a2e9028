"""The optional table ``users``: validated like items, with a reason per rejected row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import DAY, START, moments, write_tables
from helpers.contract_builders import good, sqlite
from sidkit.contract import ValidatedTables, open_source, validate
from sidkit.contract.row_remedies import row_remedy
from sidkit.core.clock import present_us
from sidkit.core.config import EngineSettings, Settings, SourceSettings
from sidkit.core.engine import connection
from sidkit.core.errors import ContractError, TableSchemaError

AHEAD = present_us() + 400 * DAY


def users(**columns: Any) -> pa.Table:
    return pa.table({"user_id": ["u0", "u1", "u2"], "country": ["at", "de", None], **columns})


def validated(url: str, work: Path, share: float = 1.0) -> ValidatedTables:
    settings = Settings(source=SourceSettings(url=url, max_reject_share=share), engine=EngineSettings(threads=1))
    with connection(settings.engine, work / "spill") as opened:
        return validate(open_source(url), settings, opened, work / "valid", work / "rejects")


def test_users_are_validated_and_their_attributes_are_stored(tmp_path: Path) -> None:
    source = write_tables(tmp_path / "source", {**good(), "users": users(age=[1, 2, 3])})
    valid = validated(str(source), tmp_path)
    assert valid.users is not None
    assert pq.read_table(valid.users).to_pylist()[2] == {"user_id": "u2", "country": None, "age": 3}
    report = {each.table: each for each in valid.reports}["users"]
    assert report.facts == {"users": "3", "users with events": "100.0% of the log's users (3 of 3)"}


def test_a_source_may_lack_users(tmp_path: Path) -> None:
    assert validated(str(write_tables(tmp_path / "source", good())), tmp_path).users is None


def test_users_in_a_database_are_read(tmp_path: Path) -> None:
    valid = validated(sqlite(tmp_path / "db.sqlite", {**good(), "users": users()}), tmp_path)
    assert valid.users is not None
    assert pq.read_table(valid.users)["country"].to_pylist() == ["at", "de", None]


BROKEN = {
    "a second row of this user": users(user_id=["u0", "u0", "u2"]),
    "a second row of this user and updated_at": users(
        user_id=["u0", "u0", "u2"], updated_at=moments([START, START, START])
    ),
    "updated_at is in the future": users(updated_at=moments([START, AHEAD, START])),
    "created_at is in the future": users(created_at=moments([START, AHEAD, START])),
    "updated_at is before created_at": users(
        updated_at=moments([START, START, START]), created_at=moments([START, START + DAY, START])
    ),
    "user_id is missing": users(user_id=["u0", None, "u2"]),
    "user_id is empty": users(user_id=["u0", "", "u2"]),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_rejected_user_has_a_reason_and_its_remedy_works(tmp_path: Path, reason: str) -> None:
    table = BROKEN[reason]
    source = write_tables(tmp_path / "source", {**good(), "users": table})
    valid = validated(str(source), tmp_path)
    report = {each.table: each for each in valid.reports}["users"]
    assert report.reasons == {reason: 1}
    assert pq.read_table(tmp_path / "rejects" / "users.parquet")["reason"].to_pylist() == [reason]
    with pytest.raises(ContractError, match="users"):
        validated(str(source), tmp_path / "strict", share=0.0)
    scope: dict[str, Any] = {"pd": pd, "np": np, "df": table.to_pandas()}
    exec(row_remedy(reason, 1 / 3), scope)
    scope["df"].to_parquet(source / "users.parquet", index=False)
    assert {each.rejected for each in validated(str(source), tmp_path / "again", share=0.0).reports} == {0}


def test_a_table_users_without_user_id_is_refused_by_name(tmp_path: Path) -> None:
    source = write_tables(tmp_path / "source", {**good(), "users": pa.table({"id": ["u0"]})})
    with pytest.raises(TableSchemaError, match="users: expected column 'user_id', got id"):
        validated(str(source), tmp_path)
