#!lua
-- Keep events. ARGV: fingerprint; '<I4I4I4I4d6': how many texts, accounts, items and events, then
-- looks per second, looks and orders per minute; the texts; of accounts '<I4' platform and
-- identity;
-- of items '<I4I4' platform and item id; of events
-- '<I4I4 I4I4I4 I4I4 ddd B' account, item, title, brand and category, their folded names, time_us,
-- logs of price and quantity, length of what follows: kind, price and quantity packed; last its
-- keys
-- of 16 bytes, the newest first. Texts, accounts and items are given by their place in ARGV's part;
-- 0 is none.
-- Returns a letter for each event: recorded, duplicate, quarantined.
local key, refusal = key_index(ARGV[1])
if not key then return refusal end
local texts, owners, items, events, looks_per_second, looks_per_minute, orders_per_minute =
  struct.unpack('<I4I4I4I4ddd', ARGV[2])
local EVENT, FOLLOWS = '<I4I4I4I4I4I4I4dddB', 54
local MINUTE_US, SECOND_US = 60000000, 1000000
local first_owner, first_item = 2 + texts, 2 + texts + owners
local first_event = first_item + items

local function text(place) return ARGV[2 + place] end

refusal = crowded(owners, function(place)
  return text(struct.unpack('<I4', ARGV[first_owner + place]))
end)
if refusal then return refusal end

-- The price in what Python packs as kind, price and quantity; it must be there.
local function price_of(fact)
  if floor(string.byte(fact) / 4) % 4 == 1 then return (struct.unpack('<I4', fact, 2)) / 100 end
  return (struct.unpack('<d', fact, 2))
end

local owner_numbers = {}

local function owner_of(place)
  if not owner_numbers[place] then
    local packed = ARGV[first_owner + place]
    owner_numbers[place] = admit(text(struct.unpack('<I4', packed)), sub(packed, 5), key)
  end
  return owner_numbers[place]
end

-- What an account has in a minute: looks and orders in all, looks by second.
local crowds = {}

local function crowd_of(number, minute)
  local name = string.format('%d:%d', number, minute)
  if not crowds[name] then
    local crowd = {looks = 0, orders = 0, seconds = {}}
    local kept = call('ZRANGEBYSCORE', prefix .. 'e' .. number, minute * MINUTE_US,
      '(' .. string.format('%.0f', (minute + 1) * MINUTE_US), 'WITHSCORES')
    for at = 1, #kept, 2 do
      if string.byte(kept[at], EVENT_KIND) % 4 >= 2 then
        crowd.orders = crowd.orders + 1
      else
        local second = floor(kept[at + 1] / SECOND_US)
        crowd.looks = crowd.looks + 1
        crowd.seconds[second] = (crowd.seconds[second] or 0) + 1
      end
    end
    crowds[name] = crowd
  end
  return crowds[name]
end

-- Whether there is room for one more; it takes the room.
local function passes(number, kind, time_us)
  if looks_per_minute == math.huge then return true end
  local crowd, second = crowd_of(number, floor(time_us / MINUTE_US)), floor(time_us / SECOND_US)
  if kind >= 2 then
    if crowd.orders >= orders_per_minute then return false end
    crowd.orders = crowd.orders + 1
  else
    local looks = crowd.seconds[second] or 0
    if looks >= looks_per_second or crowd.looks >= looks_per_minute then return false end
    crowd.looks, crowd.seconds[second] = crowd.looks + 1, looks + 1
  end
  return true
end

-- An item while events are folded into it: what is packed as ITEM, then its texts.
local NUMBER, PLATFORM, CATEGORY, BRAND, TALLY, PRICED, LOG_PRICE, LOG_QUANTITY, PRICE, KNOWN =
  1, 2, 3, 4, 5, 9, 10, 11, 12, 13
local order, loaded, names, numbers, kept = {}, {}, {}, {}, {}

-- Look all items up at once; nothing is known of those never seen.
local function look_items_up()
  local keys, places = {}, {}
  for place = 1, items do
    local platform, id = struct.unpack('<I4I4', ARGV[first_item + place])
    names[place] = prefix .. 'n' .. intern('p', text(platform)) .. ':' .. text(id)
  end
  numbers = fetch(names)
  for place = 1, items do
    if numbers[place] then
      keys[#keys + 1], places[#places + 1] = prefix .. 'i' .. numbers[place], place
    end
  end
  for at, packed in ipairs(fetch(keys)) do kept[places[at]] = packed end
end

local function item_of(place)
  if loaded[place] then return loaded[place] end
  if #names == 0 then look_items_up() end
  local platform, id = struct.unpack('<I4I4', ARGV[first_item + place])
  local item
  if kept[place] then
    item = {struct.unpack(ITEM, kept[place])}
    item.title, item.brand, item.category = string.match(sub(kept[place], ITEM_TEXTS),
      '^([^%z]*)%z([^%z]*)%z([^%z]*)%z')
  else
    local number = call('HINCRBY', KEYS[1], 'items', 1)
    call('SET', names[place], number)
    item = {number, intern('p', text(platform)), -1, -1, 0, 0, 0, 0, 0, 0, 0, 0 / 0, -math.huge,
      -math.huge, -math.huge, -math.huge, title = '', brand = '', category = ''}
  end
  item.id, item.before = text(id), {unpack(item, TALLY, TALLY + 3)}
  loaded[place] = item
  order[#order + 1] = item
  return item
end

local function newer(item, at, time_us)
  if time_us < item[KNOWN + at] then return false end
  item[KNOWN + at] = time_us
  return true
end

local in_platform, in_category = {}, {}

local function add(tallies, code, kind, by)
  if not tallies[code] then tallies[code] = {0, 0, 0, 0} end
  tallies[code][kind] = tallies[code][kind] + by
end

local function keep_item(item)
  if item.brand_name then item[BRAND] = intern('b', item.brand_name) end
  local before = item[CATEGORY]
  if item.category_name then item[CATEGORY] = intern('c', item.category_name) end
  for kind = 1, 4 do
    local tally = item[TALLY + kind - 1]
    add(in_platform, item[PLATFORM], kind, tally - item.before[kind])
    if before >= 0 then add(in_category, before, kind, -item.before[kind]) end
    if item[CATEGORY] >= 0 then add(in_category, item[CATEGORY], kind, tally) end
  end
  call('SET', prefix .. 'i' .. item[NUMBER], struct.pack(ITEM, unpack(item, 1, 16)) .. item.title
    .. '\0' .. item.brand .. '\0' .. item.category .. '\0' .. item.id)
end

local function keep_tallies(letter, tallies)
  for code, more in pairs(tallies) do
    local packed = call('HGET', prefix .. 't', letter .. code)
    local tally = packed and {struct.unpack('<dddd', packed)} or {0, 0, 0, 0}
    call('HSET', prefix .. 't', letter .. code, struct.pack('<dddd', tally[1] + more[1],
      tally[2] + more[2], tally[3] + more[3], tally[4] + more[4]))
  end
end

local fresh = {}

local function is_known(keys)
  for at = 1, #keys, 16 do
    local key = sub(keys, at, at + 15)
    if fresh[key] or call('HEXISTS', event_bucket(key)) == 1 then return true end
  end
  return false
end

local statuses, recorded, quarantined = {}, 0, 0
for n = 1, events do
  local packed = ARGV[first_event + n]
  local owner, place, title, brand, category, brand_name, category_name, time_us, log_price,
    log_quantity, length = struct.unpack(EVENT, packed)
  local fact = sub(packed, FOLLOWS, FOLLOWS + length - 1)
  local keys = sub(packed, FOLLOWS + length)
  if is_known(keys) then
    statuses[n] = 'd'
  else
    local number, event_key = owner_of(owner), sub(keys, 1, 16)
    local kind, priced = string.byte(fact) % 4, floor(string.byte(fact) / 4) % 4 > 0
    fresh[event_key] = true
    if passes(number, kind, time_us) then
      local item = item_of(place)
      item[TALLY + kind] = item[TALLY + kind] + 1
      if priced then
        item[PRICED], item[LOG_PRICE] = item[PRICED] + 1, item[LOG_PRICE] + log_price
        if newer(item, 3, time_us) then item[PRICE] = price_of(fact) end
      end
      if kind == 2 then item[LOG_QUANTITY] = item[LOG_QUANTITY] + log_quantity end
      if title > 0 and newer(item, 0, time_us) then item.title = text(title) end
      if brand > 0 and newer(item, 1, time_us) then
        item.brand, item.brand_name = text(brand), text(brand_name)
      end
      if category > 0 and newer(item, 2, time_us) then
        item.category, item.category_name = text(category), text(category_name)
      end
      call('ZADD', prefix .. 'e' .. number, time_us,
        event_key .. struct.pack('<I4I7', item[NUMBER], now_us()) .. fact)
      statuses[n], recorded = 'r', recorded + 1
    else
      local _, id_place = struct.unpack('<I4I4', ARGV[first_item + place])
      call('ZADD', prefix .. 'q' .. number, time_us,
        event_key .. struct.pack('<I4I7', 0, now_us()) .. fact .. text(id_place))
      statuses[n], quarantined = 'q', quarantined + 1
    end
  end
end
for _, item in ipairs(order) do keep_item(item) end
keep_tallies('p', in_platform)
keep_tallies('c', in_category)
count('events', recorded)
count('quarantined', quarantined)
-- Last: what failed before is no duplicate when it is sent again.
for event_key in pairs(fresh) do
  local bucket, field = event_bucket(event_key)
  call('HSET', bucket, field, '')
end
return table.concat(statuses)
