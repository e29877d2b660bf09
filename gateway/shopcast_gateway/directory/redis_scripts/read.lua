#!lua flags=no-writes
-- ARGV, less the fingerprint that stale_key takes: pseudonyms, before_us, limit, bit of the
-- purpose, least confidence, platform, number of
-- items, of brands, of categories, then their ids and folded names.
-- Returns 1 when the account has been seen; platforms that refuse; the window as events_reply;
-- the code of the platform and its tally; packed item or '' and tally of its category of each item;
-- code of each brand; code and tally of each category. Codes are -1 and tallies '' where there are
-- none.
local stale = stale_key()
if stale then return stale end
local limit, purpose, least = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local items, brands, categories = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])

local function tally_of(name)
  return call('HGET', prefix .. 't', name) or ''
end

-- The newest events, and where some are less than certain, the newest certain ones too, so that the
-- others do not push them out.
local function newest_of(used, person, before_us, limit)
  local events, certain, seen = newest_events(used, before_us, limit), {}, {}
  for _, one in ipairs(used) do
    if person.sure[one] >= 1 then certain[#certain + 1] = one end
  end
  if #events < limit or #certain == #used then return events end
  for _, event in ipairs(events) do seen[sub(event[2], 1, 16)] = true end
  for _, event in ipairs(newest_events(certain, before_us, limit)) do
    if not seen[sub(event[2], 1, 16)] then events[#events + 1] = event end
  end
  return events
end

local number = find_account(ARGV[1])
local suppressed, window = {}, {{}, {}, {}}
if number then
  local person = person_of(number)
  local used
  used, suppressed = usable(person, purpose, least)
  window = events_reply(newest_of(used, person, tonumber(ARGV[2]), limit), person)
end
local platform = tonumber(call('HGET', prefix .. 'p', ARGV[6]) or -1)
local keys, at = {}, 9
for n = 1, items do keys[n] = prefix .. 'n' .. platform .. ':' .. ARGV[at + n] end
local numbers, known = fetch(keys), {}
for n = 1, items do
  if numbers[n] then known[#known + 1] = prefix .. 'i' .. numbers[n] end
end
local kept, next_kept, packed, tallies = fetch(known), 1, {}, {}
for n = 1, items do
  packed[n], tallies[n] = '', ''
  if numbers[n] then
    packed[n], next_kept = kept[next_kept], next_kept + 1
    tallies[n] = tally_of('c' .. struct.unpack('<i4', packed[n], ITEM_CATEGORY))
  end
end
at = at + items
local brand_codes, category_codes, category_tallies = {}, {}, {}
for n = 1, brands do brand_codes[n] = tonumber(call('HGET', prefix .. 'b', ARGV[at + n]) or -1) end
at = at + brands
for n = 1, categories do
  category_codes[n] = tonumber(call('HGET', prefix .. 'c', ARGV[at + n]) or -1)
  category_tallies[n] = tally_of('c' .. category_codes[n])
end
return {number and 1 or 0, suppressed, window, platform, tally_of('p' .. platform), packed, tallies,
  brand_codes, category_codes, category_tallies}
