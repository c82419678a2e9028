-- query
/* user_attributes: attributes of users, one row per version. Users without any time are known from the beginning of time, */
/* 1970-01-02. */
/* Reads   user_attribute_versions(user_id, _version_us, <one column per attribute>)   versions available by as_of */
SELECT
  user_id,
  TIMESTAMP_MICROS(COALESCE(_version_us + CAST(60000000 AS BIGINT), 86400000000)) AS event_timestamp,
  TIMESTAMP_MICROS(COALESCE(_version_us + CAST(60000000 AS BIGINT), 86400000000)) AS created_timestamp,
  user_attribute_versions.*
  EXCEPT (user_id, _version_us)
FROM user_attribute_versions
