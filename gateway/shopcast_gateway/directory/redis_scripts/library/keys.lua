-- Put before every script, with the other files of this folder, after its first line.
--
-- KEYS[1] is {name}:meta, KEYS[2] a key that never exists. All keys of a directory lie in one slot.
-- While that slot moves to another server, key by key, a script with one key would run on a part of
-- the directory and take the rest for absent; with two, of which one is missing, either server
-- answers TRYAGAIN until the slot is whole again.
--
-- Keys, after {name}:, and what they hold. Buckets are small enough to stay listpacks.
--   meta      hash    version, fingerprints of pseudonym keys, counts
--   p P       hash    platform name to code, and back
--   b c       hash    brand, category: folded name to code
--   t         hash    p<code>, c<code>: events by kind of a platform, of a category
--   u<2>      hash    pseudonym, by its first 2 bytes: the other 14 to account number
--   o<2>      hash    person code, likewise: to the account it was made for
--   a<n/64>   hash    n % 64 to account n, packed as ACCOUNT
--   l<n>      string  links of account n
--   h<n>      list    links that account n had
--   e<n> q<n> zset    events of account n, those quarantined; by time, then event key
--   k<3>      hash    event key, by its first 18 bits: the bytes after 2
--   n<p>:<id> string  number of an item id of platform p
--   i<n>      string  item n, packed as ITEM
--   j         zset    entries of the journal by number, which each begins with. No stream, which
--                     keeps what is taken out of it until all around it is
--   v         set     encoders that have vectors; those lie elsewhere, one hash for each of
--                     name:v:<first byte of the digest>:<encoder>
--
-- Account numbers rise as accounts are first seen, so a person is named after its least. Texts are
-- never compared by `<`, which depends on the server's locale.

local call, sub, floor = redis.call, string.sub, math.floor
local prefix = sub(KEYS[1], 1, -5)

local ACCOUNT = '<I2I1I1I7c16c16' -- platform, key, refused purposes, created_us, pseudonym, code
-- Event key (16), item number, recorded_us; then kind, price and quantity as Python packs them, and of
-- a quarantined event its item id.
local EVENT_ITEM, EVENT_RECORDED, EVENT_KIND = 17, 21, 28
-- Number, platform, category, brand; events by kind; sums of features.HABIT; price; when the events
-- were that title, brand, category and price are of. Then those texts and the item id, \0 between.
local ITEM = '<I4I4i4i4I4I4I4I4dddddddd'
local ITEM_CATEGORY, ITEM_TEXTS = 9, 97
local LINKED, UNLINKED, ERASED = 1, 2, 3
local CHUNK = 1000 -- values per call; Lua's stack holds 8,000

local started_us

local function now_us()
  if not started_us then
    local time = call('TIME')
    started_us = time[1] * 1000000 + time[2]
  end
  return started_us
end

local function count(name, by)
  if by ~= 0 then call('HINCRBY', KEYS[1], name, by) end
end

local function fetch(keys)
  local values = {}
  for start = 1, #keys, CHUNK do
    local found = call('MGET', unpack(keys, start, math.min(start + CHUNK - 1, #keys)))
    for at = 1, #found do values[start + at - 1] = found[at] end
  end
  return values
end
