"""The same steps as Dagster assets, with a partition per day and a schedule.

    SIDKIT_REPO=shop SIDKIT_FIRST_DAY=2024-01-01 dagster dev -f dagster_daily.py

A backfill of several days is one run, because the tables hold all days up to one point in time.
"""

# No `from __future__ import annotations`: Dagster reads the type of `context` when an asset is defined.
import os
from datetime import date
from typing import Any

import dagster as dg
import steps

REPO = os.environ.get("SIDKIT_REPO", ".")
DAYS = dg.DailyPartitionsDefinition(start_date=os.environ.get("SIDKIT_FIRST_DAY", "2024-01-01"))
OPTIONS: dict[str, Any] = {
    "partitions_def": DAYS,
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "pool": "sidkit",  # one writer at a time
}
RETRIES = dg.RetryPolicy(max_retries=3, delay=30, backoff=dg.Backoff.EXPONENTIAL)


def done(facts: dict[str, Any]) -> dg.MaterializeResult:
    """The result of an asset, with its facts as metadata."""
    return dg.MaterializeResult(metadata={name: str(value) for name, value in facts.items()})


def retried(work: Any, *arguments: Any) -> dg.MaterializeResult:
    """Do a step; a transient error is tried again as ``RETRIES`` says, any other ends the run."""
    try:
        return done(work(REPO, *arguments))
    except steps.TRANSIENT:
        raise
    except Exception as error:
        raise dg.Failure(str(error), allow_retries=False) from error


@dg.asset(retry_policy=RETRIES, **OPTIONS)
def interaction_log() -> dg.MaterializeResult:
    """The validated log."""
    return retried(steps.ingest)


@dg.asset(deps=[interaction_log], retry_policy=RETRIES, **OPTIONS)
def feature_tables(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """The feature tables up to the end of the last day of the run."""
    first, last = (
        date.fromisoformat(key) for key in (context.partition_key_range.start, context.partition_key_range.end)
    )
    results = [retried(steps.build, day) for day in steps.days(first, last)]
    return results[-1]


@dg.asset(deps=[feature_tables], retry_policy=RETRIES, **OPTIONS)
def item_codes() -> dg.MaterializeResult:
    """Codes of new and changed items under every published codebook."""
    return retried(steps.refresh)


@dg.asset(deps=[item_codes], retry_policy=RETRIES, **OPTIONS)
def online_features() -> dg.MaterializeResult:
    """The newest row of every key in the online store."""
    return retried(steps.materialize)


ASSETS = [interaction_log, feature_tables, item_codes, online_features]
daily = dg.define_asset_job("daily", selection=dg.AssetSelection.assets(*ASSETS))
definitions = dg.Definitions(
    assets=ASSETS,
    jobs=[daily],
    schedules=[dg.build_schedule_from_partitioned_job(daily, hour_of_day=2, minute_of_hour=15)],
)
