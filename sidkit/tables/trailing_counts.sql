-- Trailing counts per entity: shared by item_stats.sql, user_stats.sql and the statistics of codes.
--
-- Reads   entity_events(entity_id, ts_us, exposures, clicks, conversions)   events up to as_of
--         restart(entity_id, restart_us)          entities whose past changed: first window end to recompute
--         previous(entity_id, window_end_us, exposures_all, clicks_all, conversions_all)   rows of the previous build
--         variable short_windows    whether changes of the counts of 1d and 7d have rows
-- Returns one row per entity and window end >= its restart at which any count changes.
--
-- A window that ends at W counts events in (W - window, W]. An event enters at the first multiple of the cadence at or
-- after it, and leaves a window at the first multiple at or after event + window: each is one step of a running sum.
CREATE OR REPLACE TEMP VIEW trailing_counts AS
WITH dated AS (
    SELECT
        entity_id, ts_us, exposures, clicks, conversions,
        coalesce(restart_us, getvariable('default_restart_us')) AS restart_us,
        (ts_us + getvariable('cadence_us') - 1) // getvariable('cadence_us') * getvariable('cadence_us') AS enter_us
    FROM entity_events LEFT JOIN restart USING (entity_id)
    WHERE ts_us >= coalesce(restart_us, getvariable('default_restart_us'))
        - 30 * 86400000000 - getvariable('cadence_us')
),
entered AS (
    SELECT
        entity_id, restart_us, enter_us,
        (ts_us + 1 * 86400000000 + getvariable('cadence_us') - 1) // getvariable('cadence_us')
            * getvariable('cadence_us') AS leave_1d_us,
        (ts_us + 7 * 86400000000 + getvariable('cadence_us') - 1) // getvariable('cadence_us')
            * getvariable('cadence_us') AS leave_7d_us,
        (ts_us + 30 * 86400000000 + getvariable('cadence_us') - 1) // getvariable('cadence_us')
            * getvariable('cadence_us') AS leave_30d_us,
        sum(exposures)::BIGINT AS e, sum(clicks)::BIGINT AS c, sum(conversions)::BIGINT AS v
    FROM dated
    GROUP BY ALL
),
moves AS (
    SELECT
        entity_id, restart_us, enter_us AS window_end_us,
        e AS e1, c AS c1, v AS v1, e AS e7, c AS c7, v AS v7, e AS e30, c AS c30, v AS v30,
        if(enter_us >= restart_us, e, 0) AS e_all, if(enter_us >= restart_us, c, 0) AS c_all,
        if(enter_us >= restart_us, v, 0) AS v_all
    FROM entered
    UNION ALL
    SELECT entity_id, restart_us, leave_1d_us, -e, -c, -v, 0, 0, 0, 0, 0, 0, 0, 0, 0 FROM entered
    WHERE getvariable('short_windows')
    UNION ALL
    SELECT entity_id, restart_us, leave_7d_us, 0, 0, 0, -e, -c, -v, 0, 0, 0, 0, 0, 0 FROM entered
    WHERE getvariable('short_windows')
    UNION ALL
    SELECT entity_id, restart_us, leave_30d_us, 0, 0, 0, 0, 0, 0, -e, -c, -v, 0, 0, 0 FROM entered
),
moved AS (  -- sums of BIGINT are HUGEINT, whose running sums are ten times slower
    SELECT
        entity_id, restart_us, window_end_us,
        sum(e1)::BIGINT AS e1, sum(c1)::BIGINT AS c1, sum(v1)::BIGINT AS v1,
        sum(e7)::BIGINT AS e7, sum(c7)::BIGINT AS c7, sum(v7)::BIGINT AS v7,
        sum(e30)::BIGINT AS e30, sum(c30)::BIGINT AS c30, sum(v30)::BIGINT AS v30,
        sum(e_all)::BIGINT AS e_all, sum(c_all)::BIGINT AS c_all, sum(v_all)::BIGINT AS v_all
    FROM moves
    WHERE window_end_us + getvariable('delay_us') <= getvariable('as_of_us')
    GROUP BY ALL
),
base AS (
    SELECT
        entity_id, arg_max(exposures_all, window_end_us) AS e, arg_max(clicks_all, window_end_us) AS c,
        arg_max(conversions_all, window_end_us) AS v
    FROM previous LEFT JOIN restart USING (entity_id)
    WHERE window_end_us < coalesce(restart_us, getvariable('default_restart_us'))
    GROUP BY entity_id
),
running AS (
    SELECT
        entity_id, restart_us, window_end_us,
        sum(e1) OVER up_to AS e1, sum(c1) OVER up_to AS c1, sum(v1) OVER up_to AS v1,
        sum(e7) OVER up_to AS e7, sum(c7) OVER up_to AS c7, sum(v7) OVER up_to AS v7,
        sum(e30) OVER up_to AS e30, sum(c30) OVER up_to AS c30, sum(v30) OVER up_to AS v30,
        sum(e_all) OVER up_to AS e_all, sum(c_all) OVER up_to AS c_all, sum(v_all) OVER up_to AS v_all
    FROM moved
    WINDOW up_to AS (PARTITION BY entity_id ORDER BY window_end_us ROWS UNBOUNDED PRECEDING)
)
SELECT
    entity_id, window_end_us,
    e1::BIGINT AS exposures_1d, c1::BIGINT AS clicks_1d, v1::BIGINT AS conversions_1d,
    e7::BIGINT AS exposures_7d, c7::BIGINT AS clicks_7d, v7::BIGINT AS conversions_7d,
    e30::BIGINT AS exposures_30d, c30::BIGINT AS clicks_30d, v30::BIGINT AS conversions_30d,
    (coalesce(base.e, 0) + e_all)::BIGINT AS exposures_all,
    (coalesce(base.c, 0) + c_all)::BIGINT AS clicks_all,
    (coalesce(base.v, 0) + v_all)::BIGINT AS conversions_all
FROM running LEFT JOIN base USING (entity_id)
WHERE window_end_us >= restart_us;
