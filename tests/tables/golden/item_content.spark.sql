-- query
/* item_content: attributes and vectors of items, one row per change. */
/* Reads   item_versions(item_id, version_us, category, price, created_at_us) */
/*         embedding_versions(item_id, version_us, <one list per modality>) */
/* Both have only versions that were available by as_of. Vectors are available from the item's creation on. */
WITH first_seen AS (
  SELECT
    item_id,
    MIN(version_us) AS first_us
  FROM item_versions
  GROUP BY
    item_id
), moments AS (
  SELECT
    item_id,
    version_us
  FROM item_versions
  UNION
  SELECT
    item_id,
    version_us
  FROM embedding_versions
  INNER JOIN first_seen
    USING (item_id)
  WHERE
    version_us > first_us
), attributed /* The temporal joins use keys only; wide columns are joined by key afterwards. */ AS (
  SELECT
    moments.item_id,
    moments.version_us,
    item_versions.version_us AS item_version_us
  FROM moments
  JOIN (
    SELECT
      _key,
      _time,
      MAX(_version) OVER (
        PARTITION BY _key
        ORDER BY _time NULLS LAST
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
      ) AS _version
    FROM (
      SELECT
        _key,
        _time,
        MAX(_version) AS _version
      FROM (
        SELECT
          moments.item_id AS _key,
          moments.version_us AS _time,
          CAST(NULL AS BIGINT) AS _version
        FROM moments
        UNION ALL
        SELECT
          item_versions.item_id,
          item_versions.version_us,
          item_versions.version_us
        FROM item_versions
      ) AS _as_of_0_times
      GROUP BY
        _key,
        _time
    ) AS _as_of_0_moments
  ) AS _as_of_0
    ON moments.item_id = _as_of_0._key AND moments.version_us = _as_of_0._time
  JOIN item_versions
    ON _as_of_0._key = item_versions.item_id
    AND _as_of_0._version = item_versions.version_us
), paired AS (
  SELECT
    attributed.*,
    embedding_versions.version_us AS embedding_version_us
  FROM attributed
  LEFT JOIN (
    SELECT
      _key,
      _time,
      MAX(_version) OVER (
        PARTITION BY _key
        ORDER BY _time NULLS LAST
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
      ) AS _version
    FROM (
      SELECT
        _key,
        _time,
        MAX(_version) AS _version
      FROM (
        SELECT
          attributed.item_id AS _key,
          attributed.version_us AS _time,
          CAST(NULL AS BIGINT) AS _version
        FROM attributed
        UNION ALL
        SELECT
          embedding_versions.item_id,
          embedding_versions.version_us,
          embedding_versions.version_us
        FROM embedding_versions
      ) AS _as_of_1_times
      GROUP BY
        _key,
        _time
    ) AS _as_of_1_moments
  ) AS _as_of_1
    ON attributed.item_id = _as_of_1._key AND attributed.version_us = _as_of_1._time
  LEFT JOIN embedding_versions
    ON _as_of_1._key = embedding_versions.item_id
    AND _as_of_1._version = embedding_versions.version_us
)
SELECT
  paired.item_id,
  TIMESTAMP_MICROS(paired.version_us + CAST(60000000 AS BIGINT)) AS event_timestamp,
  TIMESTAMP_MICROS(paired.version_us + CAST(60000000 AS BIGINT)) AS created_timestamp,
  embedding_versions.*
  EXCEPT (item_id, version_us),
  item_versions.category,
  item_versions.price,
  item_versions.created_at_us
FROM paired
INNER JOIN item_versions
  ON paired.item_id = item_versions.item_id
  AND paired.item_version_us = item_versions.version_us
LEFT JOIN embedding_versions
  ON paired.item_id = embedding_versions.item_id
  AND paired.embedding_version_us = embedding_versions.version_us
