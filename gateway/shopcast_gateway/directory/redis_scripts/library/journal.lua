-- The journal, and changes that go into it.

local function journal(entry)
  local number = call('HINCRBY', KEYS[1], 'last_change', 1)
  call('ZADD', prefix .. 'j', number, struct.pack('<I7', number) .. cmsgpack.pack(entry))
  return number
end

-- Number and entry, of a member of the journal.
local function entry_of(packed)
  return (struct.unpack('<I7', packed)), cmsgpack.unpack(sub(packed, 8))
end

local function entry_at(number)
  local packed = call('ZRANGEBYSCORE', prefix .. 'j', number, number)[1]
  return packed and select(2, entry_of(packed))
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

-- Make or replace a link; keep_links writes it. Whether two persons became one, the number of the
-- change, and whether it was surer before; no number where the link is there just so.
local function connect(one, other, kind, confidence, source)
  local fewer, more = one, other
  if #links_of(more) < #links_of(fewer) then fewer, more = more, fewer end
  local before = link_between(fewer, more, kind)
  if before and before[CONFIDENCE] == confidence and before[SOURCE] == source then return false end
  local mine, theirs = same_person_of(one), same_person_of(other)
  local link = {other, kind, confidence, source, now_us(), 0}
  local change = note(LINKED, link, one, mine, other, theirs)
  for number, far in pairs({[one] = other, [other] = one}) do
    if before then keep_former(number, end_link(number, far, kind), change) end
    table.insert(links_of(number), {far, kind, confidence, source, now_us(), change})
    changed[number] = true
  end
  local merged = mine.first ~= theirs.first
  if not before then count('links', 1) end
  if merged then
    count('people', -1)
    become_one(mine, theirs)
  end
  return merged, change, before and before[CONFIDENCE] > confidence
end

-- Byte by byte.
local function text_first(text, other)
  for at = 1, math.min(#text, #other) do
    local a, b = string.byte(text, at), string.byte(other, at)
    if a ~= b then return a < b end
  end
  return #text < #other
end

-- Take links of one person away, each named by its accounts and kind: all of them, then they are
-- noted in the order of their names; keep_links writes what is left. Whether one person became
-- several, and the number of the last change.
local function disconnect(gone)
  local names, ended = {}, {}
  for _, name in ipairs(gone) do
    if name[2] < name[1] then name[1], name[2] = name[2], name[1] end
  end
  table.sort(gone, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    if a[2] ~= b[2] then return a[2] < b[2] end
    return text_first(a[3], b[3])
  end)
  for at, name in ipairs(gone) do
    ended[at] = {}
    for number, far in pairs({[name[1]] = name[2], [name[2]] = name[1]}) do
      if not names[number] then names[number] = {} end
      names[number][far .. name[3]] = at
    end
  end
  for number, going in pairs(names) do
    local staying = {}
    for _, link in ipairs(links_of(number)) do
      local at = going[link[OTHER] .. link[KIND]]
      if at then
        link[UNTIL_US] = now_us()
        ended[at][number] = link
      else
        staying[#staying + 1] = link
      end
    end
    links[number], changed[number] = staying, true
  end
  people = {}
  local firsts, parts, change = {}, 0, nil
  for at, name in ipairs(gone) do
    local one, other = name[1], name[2]
    local mine, theirs = same_person_of(one), same_person_of(other)
    change = note(UNLINKED, ended[at][one], one, mine, other, theirs)
    for number, link in pairs(ended[at]) do keep_former(number, link, change) end
    for _, person in ipairs({mine, theirs}) do
      if not firsts[person.first] then firsts[person.first], parts = true, parts + 1 end
    end
  end
  count('links', -#gone)
  if parts > 1 then count('people', parts - 1) end
  return parts > 1, change
end
