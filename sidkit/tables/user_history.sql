-- user_history: the last N positives of a user, newest first, one row per user and time of a positive.
-- A row has all positives up to its time; positives of the same time are ordered by item id.
--
-- Reads   events(user_id, item_id, ts_us, label), restart(entity_id, restart_us)
WITH positives AS (
    SELECT
        user_id, item_id, ts_us,
        coalesce(restart_us, getvariable('default_restart_us')) AS restart_us,
        row_number() OVER (PARTITION BY user_id ORDER BY ts_us DESC, item_id) AS nth
    FROM events LEFT JOIN restart ON restart.entity_id = events.user_id
    WHERE label = 1 AND ts_us + getvariable('delay_us') <= getvariable('as_of_us')
),
needed AS (  -- all from the restart on, and the N before it that its first row includes
    SELECT * FROM positives
    QUALIFY ts_us >= restart_us
        OR row_number() OVER (PARTITION BY user_id, ts_us >= restart_us ORDER BY nth) <= getvariable('history_length')
),
listed AS (
    SELECT
        user_id, ts_us, restart_us,
        list(item_id) OVER newest AS item_ids,
        list(ts_us) OVER newest AS timestamps_us,
        nth = min(nth) OVER (PARTITION BY user_id, ts_us) AS leads
    FROM needed
    WINDOW newest AS (
        PARTITION BY user_id ORDER BY nth ROWS BETWEEN CURRENT ROW AND (getvariable('history_length') - 1) FOLLOWING
    )
)
SELECT
    user_id,
    make_timestamptz(ts_us + getvariable('delay_us')) AS event_timestamp,
    make_timestamptz(ts_us + getvariable('delay_us')) AS created_timestamp,
    item_ids,
    timestamps_us
FROM listed
WHERE leads AND ts_us >= restart_us
