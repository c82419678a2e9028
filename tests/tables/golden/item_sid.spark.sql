-- query
/* item_sid_<codebook>: the codes of every content row under one frozen codebook. */
/* Reads   content(item_id, event_timestamp, created_timestamp)         rows of item_content */
/*         assigned(item_id, event_timestamp, codes, residual_norm)     their codes; null where a row has no vector */
SELECT
  content.item_id,
  content.event_timestamp,
  content.created_timestamp,
  assigned.codes,
  assigned.residual_norm,
  CAST(CAST(1700000001000000 AS BIGINT) AS BIGINT) AS assigned_at_us
FROM content
INNER JOIN assigned
  USING (item_id, event_timestamp)
