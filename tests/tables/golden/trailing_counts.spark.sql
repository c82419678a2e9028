-- view trailing_counts
WITH dated AS (
  SELECT
    entity_id,
    ts_us,
    exposures,
    clicks,
    conversions,
    COALESCE(restart_us, CAST(0 AS BIGINT)) AS restart_us,
    (
      ts_us + CAST(60000000 AS BIGINT) - 1
    ) DIV CAST(60000000 AS BIGINT) * CAST(60000000 AS BIGINT) AS enter_us
  FROM entity_events
  LEFT JOIN restart
    USING (entity_id)
  WHERE
    ts_us >= COALESCE(restart_us, CAST(0 AS BIGINT)) - 30 * 86400000000 - CAST(60000000 AS BIGINT)
), entered AS (
  SELECT
    entity_id,
    restart_us,
    enter_us,
    (
      ts_us + 1 * 86400000000 + CAST(60000000 AS BIGINT) - 1
    ) DIV CAST(60000000 AS BIGINT) * CAST(60000000 AS BIGINT) AS leave_1d_us,
    (
      ts_us + 7 * 86400000000 + CAST(60000000 AS BIGINT) - 1
    ) DIV CAST(60000000 AS BIGINT) * CAST(60000000 AS BIGINT) AS leave_7d_us,
    (
      ts_us + 30 * 86400000000 + CAST(60000000 AS BIGINT) - 1
    ) DIV CAST(60000000 AS BIGINT) * CAST(60000000 AS BIGINT) AS leave_30d_us,
    CAST(SUM(exposures) AS BIGINT) AS e,
    CAST(SUM(clicks) AS BIGINT) AS c,
    CAST(SUM(conversions) AS BIGINT) AS v
  FROM dated
  GROUP BY ALL
), moves AS (
  SELECT
    entity_id,
    restart_us,
    enter_us AS window_end_us,
    e AS e1,
    c AS c1,
    v AS v1,
    e AS e7,
    c AS c7,
    v AS v7,
    e AS e30,
    c AS c30,
    v AS v30,
    IF(enter_us >= restart_us, e, 0) AS e_all,
    IF(enter_us >= restart_us, c, 0) AS c_all,
    IF(enter_us >= restart_us, v, 0) AS v_all
  FROM entered
  UNION ALL
  SELECT
    entity_id,
    restart_us,
    leave_1d_us,
    -e,
    -c,
    -v,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0
  FROM entered
  WHERE
    TRUE
  UNION ALL
  SELECT
    entity_id,
    restart_us,
    leave_7d_us,
    0,
    0,
    0,
    -e,
    -c,
    -v,
    0,
    0,
    0,
    0,
    0,
    0
  FROM entered
  WHERE
    TRUE
  UNION ALL
  SELECT
    entity_id,
    restart_us,
    leave_30d_us,
    0,
    0,
    0,
    0,
    0,
    0,
    -e,
    -c,
    -v,
    0,
    0,
    0
  FROM entered
), moved AS (
  SELECT
    entity_id,
    restart_us,
    window_end_us,
    CAST(SUM(e1) AS BIGINT) AS e1,
    CAST(SUM(c1) AS BIGINT) AS c1,
    CAST(SUM(v1) AS BIGINT) AS v1,
    CAST(SUM(e7) AS BIGINT) AS e7,
    CAST(SUM(c7) AS BIGINT) AS c7,
    CAST(SUM(v7) AS BIGINT) AS v7,
    CAST(SUM(e30) AS BIGINT) AS e30,
    CAST(SUM(c30) AS BIGINT) AS c30,
    CAST(SUM(v30) AS BIGINT) AS v30,
    CAST(SUM(e_all) AS BIGINT) AS e_all,
    CAST(SUM(c_all) AS BIGINT) AS c_all,
    CAST(SUM(v_all) AS BIGINT) AS v_all
  FROM moves
  WHERE
    window_end_us + CAST(60000000 AS BIGINT) <= CAST(1700000000000000 AS BIGINT)
  GROUP BY ALL
), base AS (
  SELECT
    entity_id,
    MAX_BY(exposures_all, window_end_us) AS e,
    MAX_BY(clicks_all, window_end_us) AS c,
    MAX_BY(conversions_all, window_end_us) AS v
  FROM previous
  LEFT JOIN restart
    USING (entity_id)
  WHERE
    window_end_us < COALESCE(restart_us, CAST(0 AS BIGINT))
  GROUP BY
    entity_id
), running AS (
  SELECT
    entity_id,
    restart_us,
    window_end_us,
    SUM(e1) OVER up_to AS e1,
    SUM(c1) OVER up_to AS c1,
    SUM(v1) OVER up_to AS v1,
    SUM(e7) OVER up_to AS e7,
    SUM(c7) OVER up_to AS c7,
    SUM(v7) OVER up_to AS v7,
    SUM(e30) OVER up_to AS e30,
    SUM(c30) OVER up_to AS c30,
    SUM(v30) OVER up_to AS v30,
    SUM(e_all) OVER up_to AS e_all,
    SUM(c_all) OVER up_to AS c_all,
    SUM(v_all) OVER up_to AS v_all
  FROM moved
  WINDOW up_to AS (
    PARTITION BY entity_id
    ORDER BY window_end_us NULLS LAST
    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
  )
)
SELECT
  entity_id,
  window_end_us,
  CAST(e1 AS BIGINT) AS exposures_1d,
  CAST(c1 AS BIGINT) AS clicks_1d,
  CAST(v1 AS BIGINT) AS conversions_1d,
  CAST(e7 AS BIGINT) AS exposures_7d,
  CAST(c7 AS BIGINT) AS clicks_7d,
  CAST(v7 AS BIGINT) AS conversions_7d,
  CAST(e30 AS BIGINT) AS exposures_30d,
  CAST(c30 AS BIGINT) AS clicks_30d,
  CAST(v30 AS BIGINT) AS conversions_30d,
  CAST((
    COALESCE(base.e, 0) + e_all
  ) AS BIGINT) AS exposures_all,
  CAST((
    COALESCE(base.c, 0) + c_all
  ) AS BIGINT) AS clicks_all,
  CAST((
    COALESCE(base.v, 0) + v_all
  ) AS BIGINT) AS conversions_all
FROM running
LEFT JOIN base
  USING (entity_id)
WHERE
  window_end_us >= restart_us
