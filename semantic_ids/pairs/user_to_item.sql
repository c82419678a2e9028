-- For user-to-item pairs: all clicks by user, oldest first, and which of them are used as targets.
-- place    the click's number within its user, from 1; among simultaneous clicks the smaller item counts as newer, as in
--          user_history
-- earlier  number of strictly earlier clicks of the user: places 1 to earlier are the history of this click
-- chosen   whether it is among the newest clicks of its item that have a history, which bounds the cost per item
--
-- Reads   clicks(who, item, ts_us), mined(who): the users whose clicks are returned; variable targets_per_item
WITH ordered AS (
    SELECT
        who, item, ts_us,
        CAST(row_number() OVER (PARTITION BY who ORDER BY ts_us, item DESC) AS INTEGER) AS place,
        CAST(rank() OVER (PARTITION BY who ORDER BY ts_us) - 1 AS INTEGER) AS earlier
    FROM clicks
)
SELECT
    who, item, place, earlier,
    earlier > 0 AND row_number() OVER (
        PARTITION BY item, earlier > 0 ORDER BY ts_us DESC, who
    ) <= getvariable('targets_per_item') AS chosen
FROM ordered
QUALIFY who IN (SELECT who FROM mined)
ORDER BY who, place
