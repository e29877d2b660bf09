#!lua flags=allow-oom
-- ARGV: account number to begin with, how many to look at, age in microseconds up to which
-- events are kept or '', how many of a person are or ''. Looks at each person when their first
-- account comes by.
-- Returns events removed, the number to go on with, 0 at the end, and the last account's number.
local begin, age_us, most = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
local oldest_us = age_us and now_us() - age_us
local last = tonumber(call('HGET', KEYS[1], 'last_account') or 0)
local stop = math.min(begin + ARGV[2] - 1, last)
local removed = {e = 0, q = 0}

local function remove(letter, number, packed)
  call('ZREM', prefix .. letter .. number, packed)
  call('HDEL', event_bucket(sub(packed, 1, 16)))
  removed[letter] = removed[letter] + 1
end

for number = begin, stop do
  local account = account_of(number)
  local person = account and person_of(number)
  if person and person.first == number then
    local total = 0
    for _, one in ipairs(person.numbers) do
      for _, letter in ipairs(oldest_us and {'e', 'q'} or {}) do
        local old = call('ZRANGEBYSCORE', prefix .. letter .. one, '-inf',
          '(' .. string.format('%.0f', oldest_us))
        for _, packed in ipairs(old) do remove(letter, one, packed) end
      end
      total = total + call('ZCARD', prefix .. 'e' .. one)
    end
    if most and total > most then
      local events = newest_events(person.numbers, 2 ^ 53, total)
      for at = most + 1, total do remove('e', events[at][3], events[at][2]) end
    end
  end
end
count('events', -removed.e)
count('quarantined', -removed.q)
return {removed.e + removed.q, stop < last and stop + 1 or 0, last}
