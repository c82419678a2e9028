-- view trailing_counts
WITH seen AS (
  SELECT
    entity_id,
    ts_us,
    exposures,
    clicks,
    conversions,
    CAST(1699999980000000 AS BIGINT) AS last_us,
    (
      ts_us + CAST(60000000 AS BIGINT) - 1
    ) DIV CAST(60000000 AS BIGINT) * CAST(60000000 AS BIGINT) AS enter_us,
    (
      ts_us + 1 * 86400000000 + CAST(60000000 AS BIGINT) - 1
    ) DIV CAST(60000000 AS BIGINT) * CAST(60000000 AS BIGINT) AS leave_1d_us,
    (
      ts_us + 7 * 86400000000 + CAST(60000000 AS BIGINT) - 1
    ) DIV CAST(60000000 AS BIGINT) * CAST(60000000 AS BIGINT) AS leave_7d_us,
    (
      ts_us + 30 * 86400000000 + CAST(60000000 AS BIGINT) - 1
    ) DIV CAST(60000000 AS BIGINT) * CAST(60000000 AS BIGINT) AS leave_30d_us
  FROM entity_events
  WHERE
    ts_us <= CAST(1699999980000000 AS BIGINT)
)
SELECT
  entity_id,
  GREATEST(
    MAX(enter_us),
    MAX(leave_1d_us) FILTER(WHERE
      leave_1d_us <= last_us AND TRUE),
    MAX(leave_7d_us) FILTER(WHERE
      leave_7d_us <= last_us AND TRUE),
    MAX(leave_30d_us) FILTER(WHERE
      leave_30d_us <= last_us)
  ) AS window_end_us,
  CAST(COALESCE(SUM(exposures) FILTER(WHERE
    leave_1d_us > last_us), 0) AS BIGINT) AS exposures_1d,
  CAST(COALESCE(SUM(clicks) FILTER(WHERE
    leave_1d_us > last_us), 0) AS BIGINT) AS clicks_1d,
  CAST(COALESCE(SUM(conversions) FILTER(WHERE
    leave_1d_us > last_us), 0) AS BIGINT) AS conversions_1d,
  CAST(COALESCE(SUM(exposures) FILTER(WHERE
    leave_7d_us > last_us), 0) AS BIGINT) AS exposures_7d,
  CAST(COALESCE(SUM(clicks) FILTER(WHERE
    leave_7d_us > last_us), 0) AS BIGINT) AS clicks_7d,
  CAST(COALESCE(SUM(conversions) FILTER(WHERE
    leave_7d_us > last_us), 0) AS BIGINT) AS conversions_7d,
  CAST(COALESCE(SUM(exposures) FILTER(WHERE
    leave_30d_us > last_us), 0) AS BIGINT) AS exposures_30d,
  CAST(COALESCE(SUM(clicks) FILTER(WHERE
    leave_30d_us > last_us), 0) AS BIGINT) AS clicks_30d,
  CAST(COALESCE(SUM(conversions) FILTER(WHERE
    leave_30d_us > last_us), 0) AS BIGINT) AS conversions_30d,
  CAST(SUM(exposures) AS BIGINT) AS exposures_all,
  CAST(SUM(clicks) AS BIGINT) AS clicks_all,
  CAST(SUM(conversions) AS BIGINT) AS conversions_all
FROM seen
GROUP BY
  entity_id
