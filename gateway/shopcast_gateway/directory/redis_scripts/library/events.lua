-- Events, and which of them may be used.

-- Whether a packed event comes before another of its time: the larger key does.
local function key_first(packed, other)
  for at = 1, 16 do
    local a, b = string.byte(packed, at), string.byte(other, at)
    if a ~= b then return a > b end
  end
  return false
end

-- The newest `limit` events before a time of some accounts: {time, packed, account number}.
-- as_of_us: those recorded up to then.
local function newest_events(numbers, before_us, limit, as_of_us)
  local events = {}
  for _, number in ipairs(numbers) do
    local offset, wanted = 0, limit
    while wanted > 0 do
      local page = call('ZREVRANGEBYSCORE', prefix .. 'e' .. number,
        '(' .. string.format('%.0f', before_us), '-inf', 'WITHSCORES', 'LIMIT', offset, wanted)
      for at = 1, #page, 2 do
        local packed = page[at]
        if not as_of_us or struct.unpack('<I7', packed, EVENT_RECORDED) <= as_of_us then
          events[#events + 1] = {tonumber(page[at + 1]), packed, number}
          wanted = wanted - 1
        end
      end
      offset = offset + #page / 2
      if #page == 0 or not as_of_us then break end
    end
  end
  if #numbers > 1 then
    table.sort(events, function(a, b)
      if a[1] ~= b[1] then return a[1] > b[1] end
      return key_first(a[2], b[2])
    end)
  end
  for at = #events, limit + 1, -1 do events[at] = nil end
  return events
end

-- Of events as newest_events gives them: time, packed event and place of its account, in turn; of
-- each account platform, pseudonym and confidence; the packed items.
local function events_reply(events, person)
  local rows, owners, places, keys, seen = {}, {}, {}, {}, {}
  for _, event in ipairs(events) do
    local number, item = event[3], struct.unpack('<I4', event[2], EVENT_ITEM)
    if not places[number] then
      local account = account_of(number)
      places[number] = #owners / 3
      owners[#owners + 1] = platform_name(account.platform)
      owners[#owners + 1] = account.pseudonym
      owners[#owners + 1] = struct.pack('<d', person.sure[number])
    end
    if not seen[item] then
      seen[item] = true
      keys[#keys + 1] = prefix .. 'i' .. item
    end
    local last = #rows
    rows[last + 1], rows[last + 2], rows[last + 3] = event[1], event[2], places[number]
  end
  return {rows, owners, fetch(keys)}
end

local ROUNDING = 1e-9

-- The accounts of a person that may be used for a purpose (its bit, or 0), those less surely theirs
-- left out; and the names of the platforms that refuse.
local function usable(person, purpose, least)
  local used, platforms, names = {}, {}, {}
  for _, number in ipairs(person.numbers) do
    local account = account_of(number)
    if bit.band(account.refused, purpose) ~= 0 then
      platforms[account.platform] = true
    elseif person.sure[number] >= least - ROUNDING then
      used[#used + 1] = number
    end
  end
  for platform in pairs(platforms) do names[#names + 1] = platform_name(platform) end
  return used, names
end

local function refusals_reply(person)
  local reply = {}
  for _, number in ipairs(person.numbers) do
    local account = account_of(number)
    reply[#reply + 1] = platform_name(account.platform)
    reply[#reply + 1] = account.refused
  end
  return reply
end
