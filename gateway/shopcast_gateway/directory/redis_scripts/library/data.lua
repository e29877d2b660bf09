-- Everything that is kept of a person.

-- The person's code; platform, pseudonym, created_us and refused bits of each account, in turn;
-- places of both accounts, kind, confidence, source and from_us of each link; events_reply; time,
-- packed event and place of the account of each quarantined one; change_reply of each entry of the
-- journal.
local function data_reply(person)
  local owners, held, apart, changes, places, numbers, entries = {}, {}, {}, {}, {}, {}, {}
  for place, number in ipairs(person.numbers) do places[number] = place - 1 end
  for _, number in ipairs(person.numbers) do
    local account = account_of(number)
    for _, value in ipairs({platform_name(account.platform), account.pseudonym, account.created_us,
      account.refused}) do owners[#owners + 1] = value end
    for _, link in ipairs(links_of(number)) do
      if number < link[OTHER] then
        held[#held + 1] = {places[number], places[link[OTHER]], link[KIND],
          struct.pack('<d', link[CONFIDENCE]), link[SOURCE], link[FROM_US]}
      end
      entries[link[MADE]] = true
    end
    for _, link in ipairs(former_links_of(number)) do
      entries[link[MADE]], entries[link[ENDED]] = true, true
    end
    local packed = call('ZRANGE', prefix .. 'q' .. number, 0, -1, 'WITHSCORES')
    for at = 1, #packed, 2 do
      apart[#apart + 1] = {tonumber(packed[at + 1]), packed[at], places[number]}
    end
  end
  for number in pairs(entries) do numbers[#numbers + 1] = number end
  table.sort(numbers)
  for at, number in ipairs(numbers) do changes[at] = change_reply(number, entry_at(number)) end
  local events = events_reply(newest_events(person.numbers, 2 ^ 53, 2 ^ 31), person)
  return {account_of(person.first).code, owners, held, events, apart, changes}
end
