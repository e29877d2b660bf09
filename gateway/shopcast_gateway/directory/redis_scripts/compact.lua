#!lua flags=allow-oom
-- ARGV: account number to begin with, how many to look at, age in microseconds up to which
-- events are kept or '', how many of a person are or '', how many to remove at most. Looks at each
-- person when their first account comes by.
-- Returns events removed, the number to go on with, 0 at the end, and the last account's number.
local loss = is_lost()
if loss then return loss end
local number, age_us, most = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
local left = tonumber(ARGV[5])
local oldest_us = age_us and now_us() - age_us
local last = tonumber(call('HGET', KEYS[1], 'last_account') or 0)
local stop = math.min(number + ARGV[2] - 1, last)
local removed = {e = 0, q = 0}

local function remove(letter, one, packed)
  call('ZREM', prefix .. letter .. one, packed)
  call('HDEL', event_bucket(sub(packed, 1, 16)))
  removed[letter], left = removed[letter] + 1, left - 1
end

-- The oldest events of some accounts, `limit` of them.
local function oldest_events(numbers, limit)
  local events = {}
  for _, one in ipairs(numbers) do
    local found = call('ZRANGE', prefix .. 'e' .. one, 0, limit - 1, 'WITHSCORES')
    for at = 1, #found, 2 do events[#events + 1] = {tonumber(found[at + 1]), found[at], one} end
  end
  table.sort(events, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return key_first(b[2], a[2])
  end)
  for at = #events, limit + 1, -1 do events[at] = nil end
  return events
end

while number <= stop and left > 0 do
  local person = account_of(number) and same_person_of(number)
  if person and person.first == number then
    local total = 0
    for _, one in ipairs(person.numbers) do
      for _, letter in ipairs(oldest_us and {'e', 'q'} or {}) do
        local old = call('ZRANGEBYSCORE', prefix .. letter .. one, '-inf',
          '(' .. string.format('%.0f', oldest_us), 'LIMIT', 0, left)
        for _, packed in ipairs(old) do remove(letter, one, packed) end
      end
      total = total + call('ZCARD', prefix .. 'e' .. one)
    end
    if most and total > most and left > 0 then
      for _, event in ipairs(oldest_events(person.numbers, math.min(total - most, left))) do
        remove('e', event[3], event[2])
      end
    end
  end
  -- Of whom there may be more to remove, that is gone on with.
  if left > 0 then number = number + 1 end
end
count('events', -removed.e)
count('quarantined', -removed.q)
return {removed.e + removed.q, number <= last and number or 0, last}
