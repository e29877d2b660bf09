#!lua flags=allow-oom
-- ARGV, less the fingerprint that stale_key takes: pseudonyms of an account. Returns the person's
-- code, at_us, counts of events, links and
-- entries of the journal, then the platform of each account; nil when it has never been seen.
local stale = stale_key()
if stale then return stale end
local start = find_account(ARGV[1])
if not start then return nil end
local person, mine = person_of(start), {}
for _, number in ipairs(person.numbers) do mine[number] = true end
local code = account_of(person.first).code
local ids, former_links, far = {}, 0, {}
local reply = {code, now_us(), 0, 0, 0}

local function forget_events(letter, number)
  local name = prefix .. letter .. number
  local packed = call('ZRANGE', name, 0, -1)
  for _, event in ipairs(packed) do call('HDEL', event_bucket(sub(event, 1, 16))) end
  call('DEL', name)
  count(letter == 'e' and 'events' or 'quarantined', -#packed)
  reply[3] = reply[3] + #packed
end

for _, number in ipairs(person.numbers) do
  local account = account_of(number)
  reply[#reply + 1] = platform_name(account.platform)
  forget_events('e', number)
  forget_events('q', number)
  for _, link in ipairs(links_of(number)) do
    ids[link[MADE]] = true
    if number < link[OTHER] then reply[4] = reply[4] + 1 end
  end
  for _, link in ipairs(former_links_of(number)) do
    ids[link[MADE]], ids[link[ENDED]] = true, true
    if not mine[link[OTHER]] then far[link[OTHER]] = true end
  end
  call('DEL', prefix .. 'l' .. number, prefix .. 'h' .. number)
  forget_code('u', account.pseudonym)
  forget_code('o', account.code)
  call('HDEL', prefix .. 'a' .. floor(number / 64), number % 64)
  count('accounts', -1)
  count('accounts:' .. account.key, -1)
end
for number in pairs(far) do
  local kept = former_links_of(number)
  call('DEL', prefix .. 'h' .. number)
  for _, link in ipairs(kept) do
    if not mine[link[OTHER]] then call('RPUSH', prefix .. 'h' .. number, cmsgpack.pack(link)) end
  end
end
for id in pairs(ids) do
  reply[5] = reply[5] + call('ZREMRANGEBYSCORE', prefix .. 'j', id, id)
end
count('people', -1)
count('links', -reply[4])
journal({ERASED, now_us(), code})
return reply
