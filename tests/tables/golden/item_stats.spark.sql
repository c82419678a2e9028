-- query
/* item_stats: trailing counts per item, one row per window end at which any count changes. */
/* Unknown counts are null: exposures for a log of positives only, conversions if the log has none. */
SELECT
  entity_id AS item_id,
  TIMESTAMP_MICROS(window_end_us + CAST(60000000 AS BIGINT)) AS event_timestamp,
  TIMESTAMP_MICROS(window_end_us + CAST(60000000 AS BIGINT)) AS created_timestamp,
  IF(FALSE, NULL, exposures_1d) AS exposures_1d,
  clicks_1d,
  IF(TRUE, conversions_1d, NULL) AS conversions_1d,
  IF(FALSE, NULL, exposures_7d) AS exposures_7d,
  clicks_7d,
  IF(TRUE, conversions_7d, NULL) AS conversions_7d,
  IF(FALSE, NULL, exposures_30d) AS exposures_30d,
  clicks_30d,
  IF(TRUE, conversions_30d, NULL) AS conversions_30d,
  IF(FALSE, NULL, exposures_all) AS exposures_all,
  clicks_all,
  IF(TRUE, conversions_all, NULL) AS conversions_all
FROM trailing_counts
