#!lua flags=no-writes
-- ARGV: pseudonyms, before_us, limit, bit of the purpose, least confidence, platform, number of
-- items, of brands, of categories, then their ids and folded names.
-- Returns 1 when the account has been seen; platforms that refuse; the window as events_reply;
-- the code of the platform and its tally; packed item or '' and tally of its category of each item;
-- code of each brand; code and tally of each category. Codes are -1 and tallies '' where there are
-- none.
local limit, purpose, least = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local items, brands, categories = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])

local function tally_of(name)
  return call('HGET', prefix .. 't', name) or ''
end

local number = find_account(ARGV[1])
local suppressed, window = {}, {{}, {}, {}}
if number then
  local person = person_of(number)
  local used
  used, suppressed = usable(person, purpose, least)
  window = events_reply(newest_events(used, tonumber(ARGV[2]), limit), person)
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
