-- item_content: attributes and vectors of items, one row per change.
--
-- Reads   item_versions(item_id, version_us, category, price, created_at_us)
--         embedding_versions(item_id, version_us, <one list per modality>)
-- Both have only versions that were available by as_of. Vectors are available from the item's creation on.
WITH first_seen AS (
    SELECT item_id, min(version_us) AS first_us FROM item_versions GROUP BY item_id
),
moments AS (
    SELECT item_id, version_us FROM item_versions
    UNION
    SELECT item_id, version_us
    FROM embedding_versions INNER JOIN first_seen USING (item_id)
    WHERE version_us > first_us
),
-- The temporal joins use keys only; wide columns are joined by key afterwards.
attributed AS (
    SELECT moments.item_id, moments.version_us, item_versions.version_us AS item_version_us
    FROM moments ASOF JOIN item_versions
        ON moments.item_id = item_versions.item_id AND moments.version_us >= item_versions.version_us
),
paired AS (
    SELECT attributed.*, embedding_versions.version_us AS embedding_version_us
    FROM attributed ASOF LEFT JOIN embedding_versions
        ON attributed.item_id = embedding_versions.item_id AND attributed.version_us >= embedding_versions.version_us
)
SELECT
    paired.item_id,
    make_timestamptz(paired.version_us + getvariable('delay_us')) AS event_timestamp,
    make_timestamptz(paired.version_us + getvariable('delay_us')) AS created_timestamp,
    embedding_versions.* EXCLUDE (item_id, version_us),
    item_versions.category,
    item_versions.price,
    item_versions.created_at_us
FROM paired
INNER JOIN item_versions
    ON paired.item_id = item_versions.item_id AND paired.item_version_us = item_versions.version_us
LEFT JOIN embedding_versions
    ON paired.item_id = embedding_versions.item_id AND paired.embedding_version_us = embedding_versions.version_us
