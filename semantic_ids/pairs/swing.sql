-- Swing for the user pairs of one bucket: score(i, j) = sum over users u, v who both have i and j of
-- 1 / (alpha + |I_u & I_v|), in units of 2^-32 rounded down: integer sums do not depend on their order.
--
-- Reads   engaged(who, item), first_users(who, item): those of the first users of pairs; variables bucket, buckets, alpha
-- Yields  one row per pair of items shared by a user pair of the bucket, with first < second
WITH common AS MATERIALIZED (
    SELECT a.who AS u, b.who AS v, a.item
    FROM first_users AS a INNER JOIN engaged AS b ON a.item = b.item AND a.who < b.who
    WHERE a.who % getvariable('buckets') = getvariable('bucket')
),
overlap AS (  -- users who share only one item contribute no item pair
    SELECT u, v, CAST(floor(4294967296.0::DOUBLE / (getvariable('alpha') + count(*))) AS BIGINT) AS vote
    FROM common GROUP BY u, v HAVING count(*) >= 2
),
votes AS MATERIALIZED (
    SELECT u, v, item, vote FROM common INNER JOIN overlap USING (u, v)
)
SELECT a.item AS first_item, b.item AS second_item, CAST(sum(a.vote) AS BIGINT) AS score
FROM votes AS a INNER JOIN votes AS b ON a.u = b.u AND a.v = b.v AND a.item < b.item
GROUP BY first_item, second_item
