-- item_attributes: attributes of items, one row per version.
--
-- Reads   item_attribute_versions(item_id, _version_us, <one column per attribute>)   versions available by as_of
SELECT
    item_id,
    make_timestamptz(_version_us + getvariable('delay_us')) AS event_timestamp,
    make_timestamptz(_version_us + getvariable('delay_us')) AS created_timestamp,
    item_attribute_versions.* EXCLUDE (item_id, _version_us)
FROM item_attribute_versions
