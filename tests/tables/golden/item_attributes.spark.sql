-- query
/* item_attributes: attributes of items, one row per version. */
/* Reads   item_attribute_versions(item_id, _version_us, <one column per attribute>)   versions available by as_of */
SELECT
  item_id,
  TIMESTAMP_MICROS(_version_us + CAST(60000000 AS BIGINT)) AS event_timestamp,
  TIMESTAMP_MICROS(_version_us + CAST(60000000 AS BIGINT)) AS created_timestamp,
  item_attribute_versions.*
  EXCEPT (item_id, _version_us)
FROM item_attribute_versions
