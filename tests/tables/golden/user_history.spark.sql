-- query
/* user_history: the last N positives of a user, newest first, one row per user and time of a positive. */
/* A row has all positives up to its time; positives of the same time are ordered by item id. */
/* Reads   events(user_id, item_id, ts_us, label), restart(entity_id, restart_us) */
WITH positives AS (
  SELECT
    user_id,
    item_id,
    ts_us,
    COALESCE(restart_us, CAST(0 AS BIGINT)) AS restart_us,
    ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY ts_us DESC, item_id NULLS LAST) AS nth
  FROM events
  LEFT JOIN restart
    ON restart.entity_id = events.user_id
  WHERE
    label = 1
    AND ts_us + CAST(60000000 AS BIGINT) <= CAST(1700000000000000 AS BIGINT)
), needed AS (
  SELECT
    *
  FROM (
    SELECT
      *,
      ROW_NUMBER() OVER (PARTITION BY user_id, ts_us >= restart_us ORDER BY nth NULLS LAST) AS _w
    FROM positives
  ) AS _t
  WHERE
    ts_us >= restart_us OR _w <= CAST(50 AS BIGINT)
), listed AS (
  SELECT
    user_id,
    ts_us,
    restart_us,
    COLLECT_LIST(item_id) OVER newest AS item_ids,
    COLLECT_LIST(ts_us) OVER newest AS timestamps_us,
    nth = MIN(nth) OVER (PARTITION BY user_id, ts_us) AS leads
  FROM needed
  WINDOW newest AS (
    PARTITION BY user_id
    ORDER BY nth NULLS LAST
    ROWS BETWEEN CURRENT ROW AND (
      50 - 1
    ) FOLLOWING
  )
)
SELECT
  user_id,
  TIMESTAMP_MICROS(ts_us + CAST(60000000 AS BIGINT)) AS event_timestamp,
  TIMESTAMP_MICROS(ts_us + CAST(60000000 AS BIGINT)) AS created_timestamp,
  item_ids,
  timestamps_us
FROM listed
WHERE
  leads AND ts_us >= restart_us
