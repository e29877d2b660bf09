#!lua flags=allow-oom
-- ARGV, less the fingerprint that stale_key takes: pseudonyms of an account. Returns as unlink
-- does; the second code is that of the person of
-- the oldest of the others.
local stale = stale_key()
if stale then return stale end
local number = find_account(ARGV[1])
if not number then return nil end
local before, held, split = person_of(number), {}, false
for _, link in ipairs(links_of(number)) do held[#held + 1] = link end
for _, link in ipairs(held) do split = disconnect(number, link[OTHER], link[KIND]) or split end
local rest = before.numbers[1] == number and before.numbers[2] or before.numbers[1]
return {account_of(number).code, account_of(person_of(rest).first).code, #held, split and 1 or 0}
