-- clicks: the positives that pairs are mined from; users and items are integers in the order of their ids.
-- users:  the numbers of their ids.
-- engaged: distinct (user, item) clicks for Swing: the newest items of each user, and of those the newest users per item.
--
-- Reads   events(user_id, item_id, ts_us): positives that became known within (start, end]
--         listed(item_id, item): the items to mine pairs for; positives of other items are ignored
--         variables items_per_user, users_per_item
CREATE TEMP TABLE users AS
SELECT user_id, CAST(row_number() OVER (ORDER BY user_id) AS INTEGER) AS who
FROM (SELECT DISTINCT user_id FROM events SEMI JOIN listed USING (item_id));

CREATE TEMP TABLE clicks AS
SELECT who, item, ts_us
FROM events INNER JOIN listed USING (item_id) INNER JOIN users USING (user_id);

CREATE TEMP TABLE engaged AS
WITH once AS (
    SELECT who, item, max(ts_us) AS ts_us FROM clicks GROUP BY who, item
),
newest_items AS (
    SELECT * FROM once
    QUALIFY row_number() OVER (PARTITION BY who ORDER BY ts_us DESC, item) <= getvariable('items_per_user')
)
SELECT who, item FROM newest_items
QUALIFY row_number() OVER (PARTITION BY item ORDER BY ts_us DESC, who) <= getvariable('users_per_item');
