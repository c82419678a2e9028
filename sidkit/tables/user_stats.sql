-- user_stats: trailing counts per user, one row per window end at which any count changes.
-- Unknown counts are null: exposures for a log of positives only.
SELECT
    entity_id AS user_id,
    make_timestamptz(window_end_us + getvariable('delay_us')) AS event_timestamp,
    make_timestamptz(window_end_us + getvariable('delay_us')) AS created_timestamp,
    if(getvariable('positives_only'), NULL, exposures_1d) AS exposures_1d,
    clicks_1d,
    if(getvariable('positives_only'), NULL, exposures_7d) AS exposures_7d,
    clicks_7d,
    if(getvariable('positives_only'), NULL, exposures_30d) AS exposures_30d,
    clicks_30d,
    if(getvariable('positives_only'), NULL, exposures_all) AS exposures_all,
    clicks_all
FROM trailing_counts
