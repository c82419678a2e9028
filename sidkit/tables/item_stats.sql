-- item_stats: trailing counts per item, one row per window end at which any count changes.
-- Unknown counts are null: exposures for a log of positives only, conversions if the log has none.
SELECT
    entity_id AS item_id,
    make_timestamptz(window_end_us + getvariable('delay_us')) AS event_timestamp,
    make_timestamptz(window_end_us + getvariable('delay_us')) AS created_timestamp,
    if(getvariable('positives_only'), NULL, exposures_1d) AS exposures_1d,
    clicks_1d,
    if(getvariable('conversions'), conversions_1d, NULL) AS conversions_1d,
    if(getvariable('positives_only'), NULL, exposures_7d) AS exposures_7d,
    clicks_7d,
    if(getvariable('conversions'), conversions_7d, NULL) AS conversions_7d,
    if(getvariable('positives_only'), NULL, exposures_30d) AS exposures_30d,
    clicks_30d,
    if(getvariable('conversions'), conversions_30d, NULL) AS conversions_30d,
    if(getvariable('positives_only'), NULL, exposures_all) AS exposures_all,
    clicks_all,
    if(getvariable('conversions'), conversions_all, NULL) AS conversions_all
FROM trailing_counts
