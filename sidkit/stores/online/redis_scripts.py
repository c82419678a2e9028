"""Lua scripts that a Redis server runs, each atomically.

Redis passes values as bytes. Lua compares strings by the server's locale, so that times are compared as numbers; a row ends
with two times of 8 bytes and a checksum of 4 (:mod:`sidkit.stores.online.checksums`).
"""

from __future__ import annotations

import hashlib
from functools import cache

_NEWER = """
local function outranks(new, old)
  local a, b, c, d = struct.unpack('>I4I4I4I4', string.sub(new, -20, -5))
  local e, f, g, h = struct.unpack('>I4I4I4I4', string.sub(old, -20, -5))
  if a ~= e then return a > e end
  if b ~= f then return b > f end
  if c ~= g then return c > g end
  return d >= h
end
"""

_HAS_LAYOUT = """
local known = {}
local function has_layout(row)
  local number = string.byte(row, 1) + 256 * string.byte(row, 2)
  if known[number] == nil then known[number] = redis.call('HEXISTS', KEYS[2], 'layout:' .. number) == 1 end
  return known[number]
end
"""

PUT = (
    _NEWER
    + _HAS_LAYOUT
    + """
local count = (#ARGV - 1) / 2
local keys = {}
for at = 1, count do
  if not has_layout(ARGV[2 * at + 1]) then return -1 end
  keys[at] = ARGV[2 * at]
end
local stored = redis.call('HMGET', KEYS[1], unpack(keys))
local newest, changes, places = {}, {}, {}
for at = 1, count do
  local key, row = keys[at], ARGV[2 * at + 1]
  local old = newest[key] or stored[at]
  if not old or outranks(row, old) then
    newest[key] = row
    if places[key] then
      changes[places[key]] = row
    else
      changes[#changes + 1] = key
      changes[#changes + 1] = row
      places[key] = #changes
    end
  end
end
if #changes > 0 then
  redis.call('HSET', KEYS[1], unpack(changes))
  redis.call('HSET', KEYS[2], 'mark', ARGV[1])
end
return #changes / 2
"""
)
"""Write rows that outrank the stored ones. KEYS: rows, meta. ARGV: mark, then key and row of each. Returns the number of
rows written; -1, and writes none, if the view lacks the layout of one."""

REPLACE = (
    _NEWER
    + _HAS_LAYOUT
    + """
if not has_layout(ARGV[4]) then return -1 end
local stored = redis.call('HGET', KEYS[1], ARGV[2])
if (stored and string.sub(stored, -20) or '') ~= ARGV[3] then return 0 end
if ARGV[5] == '' and stored and not outranks(ARGV[4], stored) then return 1 end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
redis.call('HSET', KEYS[2], 'mark', ARGV[1])
if ARGV[5] ~= '' then redis.call('SADD', KEYS[3], ARGV[2]) end
return 1
"""
)
"""Write one row if the stored one ends with the expected times and checksum. KEYS: rows, meta, outdated. ARGV: mark, key,
expected end (empty: no row), row, and a text that is not empty to outdate the row: it is written even if it is older. Returns
0 if another row is stored, -1 if the view lacks the layout."""

DROP_OUTDATED = """
local outdated = redis.call('SPOP', KEYS[3], ARGV[3])
local dropped = 0
for _, key in ipairs(outdated) do
  local row = redis.call('HGET', KEYS[1], key)
  if row and string.sub(row, -20, -13) == ARGV[2] then
    dropped = dropped + redis.call('HDEL', KEYS[1], key)
  end
end
if dropped > 0 then redis.call('HSET', KEYS[2], 'mark', ARGV[1]) end
return #outdated
"""
"""Delete outdated rows that were not replaced. KEYS: rows, meta, outdated. ARGV: mark, encoded event time of outdated rows,
maximum number of rows. Returns how many were examined."""

DELETE_EXACT = """
local deleted = 0
for at = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[at]) == ARGV[at + 1] then
    deleted = deleted + redis.call('HDEL', KEYS[1], ARGV[at])
  end
end
if deleted > 0 then redis.call('HSET', KEYS[2], 'mark', ARGV[1]) end
return deleted
"""
"""Delete rows that are still the given ones. KEYS: rows, meta. ARGV: mark, then key and row of each."""

TAILS = """
local rows = redis.call('HMGET', KEYS[1], unpack(ARGV))
for at = 1, #ARGV do
  if rows[at] then rows[at] = string.sub(rows[at], -20) end
end
return rows
"""
"""Times and checksum of rows. KEYS: rows. ARGV: keys."""

NEWEST = """
local found = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local newest, a, b = false, 0, 0
for at = 2, #found[2], 2 do
  local time = string.sub(found[2][at], -20, -13)
  local c, d = struct.unpack('>I4I4', time)
  if not newest or c > a or (c == a and d > b) then newest, a, b = time, c, d end
end
return {found[1], newest}
"""
"""The newest event time of a part of the rows. KEYS: rows. ARGV: cursor, rows per step. Returns the next cursor and the encoded
time, nil without rows."""

DROP_EXPIRED = """
local found = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local a, b = struct.unpack('>I4I4', ARGV[4])
local dropped = 0
for at = 1, #found[2], 2 do
  local c, d = struct.unpack('>I4I4', string.sub(found[2][at + 1], -20, -13))
  if c < a or (c == a and d < b) then dropped = dropped + redis.call('HDEL', KEYS[1], found[2][at]) end
end
if dropped > 0 then redis.call('HSET', KEYS[2], 'mark', ARGV[1]) end
return {found[1], dropped}
"""
"""Delete the expired ones of a part of the rows. KEYS: rows, meta. ARGV: mark, cursor, rows per step, encoded earliest event
time that is not expired. Returns the next cursor and the number of deleted rows."""


@cache
def digest(script: str) -> str:
    """The name under which a server keeps a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
