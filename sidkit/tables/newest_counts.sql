-- Trailing counts per entity as of one window end: the newest row that trailing_counts.sql would return, without the others.
--
-- Reads   entity_events(entity_id, ts_us, exposures, clicks, conversions)   events of some entities up to as_of
--         variable window_end_us    the last window end that is available
--         variable short_windows    whether changes of the counts of 1d and 7d have rows
-- Returns one row per entity: counts change when an event enters or leaves a window, so those at the last change are those
-- at window_end_us.
CREATE OR REPLACE TEMP VIEW trailing_counts AS
WITH seen AS (
    SELECT
        entity_id, ts_us, exposures, clicks, conversions, getvariable('window_end_us') AS last_us,
        (ts_us + getvariable('cadence_us') - 1) // getvariable('cadence_us') * getvariable('cadence_us') AS enter_us,
        (ts_us + 1 * 86400000000 + getvariable('cadence_us') - 1) // getvariable('cadence_us')
            * getvariable('cadence_us') AS leave_1d_us,
        (ts_us + 7 * 86400000000 + getvariable('cadence_us') - 1) // getvariable('cadence_us')
            * getvariable('cadence_us') AS leave_7d_us,
        (ts_us + 30 * 86400000000 + getvariable('cadence_us') - 1) // getvariable('cadence_us')
            * getvariable('cadence_us') AS leave_30d_us
    FROM entity_events
    WHERE ts_us <= getvariable('window_end_us')
)
SELECT
    entity_id,
    greatest(
        max(enter_us),
        max(leave_1d_us) FILTER (leave_1d_us <= last_us AND getvariable('short_windows')),
        max(leave_7d_us) FILTER (leave_7d_us <= last_us AND getvariable('short_windows')),
        max(leave_30d_us) FILTER (leave_30d_us <= last_us)
    ) AS window_end_us,
    coalesce(sum(exposures) FILTER (leave_1d_us > last_us), 0)::BIGINT AS exposures_1d,
    coalesce(sum(clicks) FILTER (leave_1d_us > last_us), 0)::BIGINT AS clicks_1d,
    coalesce(sum(conversions) FILTER (leave_1d_us > last_us), 0)::BIGINT AS conversions_1d,
    coalesce(sum(exposures) FILTER (leave_7d_us > last_us), 0)::BIGINT AS exposures_7d,
    coalesce(sum(clicks) FILTER (leave_7d_us > last_us), 0)::BIGINT AS clicks_7d,
    coalesce(sum(conversions) FILTER (leave_7d_us > last_us), 0)::BIGINT AS conversions_7d,
    coalesce(sum(exposures) FILTER (leave_30d_us > last_us), 0)::BIGINT AS exposures_30d,
    coalesce(sum(clicks) FILTER (leave_30d_us > last_us), 0)::BIGINT AS clicks_30d,
    coalesce(sum(conversions) FILTER (leave_30d_us > last_us), 0)::BIGINT AS conversions_30d,
    sum(exposures)::BIGINT AS exposures_all,
    sum(clicks)::BIGINT AS clicks_all,
    sum(conversions)::BIGINT AS conversions_all
FROM seen
GROUP BY entity_id;
