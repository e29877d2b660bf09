-- The journal, and changes that go into it.

local function journal(entry)
  local number = call('HINCRBY', KEYS[1], 'last_change', 1)
  call('XADD', prefix .. 'j', number .. '-0', '', cmsgpack.pack(entry))
  return number
end

local function entry_at(number)
  local id = string.format('%d-0', number)
  local found = call('XRANGE', prefix .. 'j', id, id)[1]
  return found and cmsgpack.unpack(found[2][2])
end

-- Of an entry {kind, at_us, account, other, link kind, confidence, source, person, other person};
-- the account is on the person's side, the other on that of the other person. Those are numbers of
-- accounts; where the one a person was named after has been erased, the side's own account does.
-- An entry of an erased person is {ERASED, at_us, code}.
local function change_reply(number, entry)
  if entry[1] == ERASED then return {number, ERASED, entry[2], entry[3]} end
  local person, restored = account_of(entry[8]) or account_of(entry[3]), ''
  if entry[9] > 0 then restored = (account_of(entry[9]) or account_of(entry[4])).code end
  return {number, entry[1], entry[2], person.code, restored, entry[5],
    struct.pack('<d', entry[6]), entry[7]}
end

local function note(kind, link, account, mine, other, theirs)
  if theirs.first < mine.first or theirs.first == mine.first and other < account then
    account, mine, other, theirs = other, theirs, account, mine
  end
  local second = theirs.first == mine.first and 0 or theirs.first
  return journal({kind, now_us(), account, other, link[KIND], link[CONFIDENCE], link[SOURCE],
    mine.first, second})
end

-- Make or replace a link. Whether two persons became one, and the number of the change; no number
-- where the link is there just so.
local function connect(one, other, kind, confidence, source)
  local before = link_between(one, other, kind)
  if before and before[CONFIDENCE] == confidence and before[SOURCE] == source then return false end
  local mine, theirs = person_of(one), person_of(other)
  local link = {other, kind, confidence, source, now_us(), 0}
  local change = note(LINKED, link, one, mine, other, theirs)
  for number, far in pairs({[one] = other, [other] = one}) do
    if before then keep_former(number, end_link(number, far, kind), change) end
    table.insert(links_of(number), {far, kind, confidence, source, now_us(), change})
    keep_links(number)
  end
  local merged = mine.first ~= theirs.first
  if not before then count('links', 1) end
  if merged then count('people', -1) end
  return merged, change
end

-- Take a link away. Whether one person became two, and the number of the change.
local function disconnect(one, other, kind)
  local link, mirrored = end_link(one, other, kind), end_link(other, one, kind)
  local mine, theirs = person_of(one), person_of(other)
  local change = note(UNLINKED, link, one, mine, other, theirs)
  keep_former(one, link, change)
  keep_former(other, mirrored, change)
  keep_links(one)
  keep_links(other)
  local split = mine.first ~= theirs.first
  count('links', -1)
  if split then count('people', 1) end
  return split, change
end
