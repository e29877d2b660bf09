-- Links. Each lies with both its accounts: while it holds in l<n>, an array of arrays, afterwards in
-- h<n>, from where nothing but erasure takes it.

local OTHER, KIND, CONFIDENCE, SOURCE, FROM_US, MADE, UNTIL_US, ENDED = 1, 2, 3, 4, 5, 6, 7, 8
local links, changed = {}, {}

local function links_of(number)
  if not links[number] then
    local packed = call('GET', prefix .. 'l' .. number)
    links[number] = packed and cmsgpack.unpack(packed) or {}
  end
  return links[number]
end

-- Once for each account, after all changes: a hub's links are many.
local function keep_links()
  for number in pairs(changed) do
    if #links[number] == 0 then
      call('DEL', prefix .. 'l' .. number)
    else
      call('SET', prefix .. 'l' .. number, cmsgpack.pack(links[number]))
    end
  end
end

local function former_links_of(number)
  local former = {}
  for at, packed in ipairs(call('LRANGE', prefix .. 'h' .. number, 0, -1)) do
    former[at] = cmsgpack.unpack(packed)
  end
  return former
end

local function links_then(number, as_of_us)
  local held = {}
  for _, link in ipairs(links_of(number)) do
    if link[FROM_US] <= as_of_us then held[#held + 1] = link end
  end
  for _, link in ipairs(former_links_of(number)) do
    if link[FROM_US] <= as_of_us and as_of_us < link[UNTIL_US] then held[#held + 1] = link end
  end
  return held
end

local function link_between(number, other, kind)
  for at, link in ipairs(links_of(number)) do
    if link[OTHER] == other and link[KIND] == kind then return link, at end
  end
end

-- Take a link away from one of its accounts. Returns what becomes of it.
local function end_link(number, other, kind)
  local link, at = link_between(number, other, kind)
  table.remove(links_of(number), at)
  link[UNTIL_US] = now_us()
  changed[number] = true
  return link
end

local function keep_former(number, link, change)
  link[ENDED] = change
  call('RPUSH', prefix .. 'h' .. number, cmsgpack.pack(link))
end

-- The person an account belongs to: its accounts' numbers in rising order, and how sure it is that
-- each is theirs, seen from that account: the largest product of confidences on a way between them.
local function person_of(start, as_of_us)
  local sure, numbers, queue, head = {[start] = 1}, {start}, {start}, 1
  while head <= #queue do
    local number = queue[head]
    for _, link in ipairs(as_of_us and links_then(number, as_of_us) or links_of(number)) do
      local other, product = link[OTHER], sure[number] * link[CONFIDENCE]
      if not sure[other] then numbers[#numbers + 1] = other end
      if not sure[other] or product > sure[other] then
        sure[other] = product
        queue[#queue + 1] = other
      end
    end
    head = head + 1
  end
  table.sort(numbers)
  return {numbers = numbers, sure = sure, first = numbers[1]}
end

local people = {}

-- As person_of, walked once for all its accounts; `sure` is as seen from one of them.
local function same_person_of(number)
  if not people[number] then
    local person = person_of(number)
    for _, one in ipairs(person.numbers) do people[one] = person end
  end
  return people[number]
end

-- Of two persons of same_person_of that are linked now.
local function become_one(mine, theirs)
  if #mine.numbers < #theirs.numbers then mine, theirs = theirs, mine end
  mine.first = math.min(mine.first, theirs.first)
  for _, number in ipairs(theirs.numbers) do
    mine.numbers[#mine.numbers + 1] = number
    people[number] = mine
  end
end

-- Person code, then platform and pseudonym of every account.
local function person_reply(person)
  local reply = {account_of(person.first).code}
  for _, number in ipairs(person.numbers) do
    local account = account_of(number)
    reply[#reply + 1] = platform_name(account.platform)
    reply[#reply + 1] = account.pseudonym
  end
  return reply
end
