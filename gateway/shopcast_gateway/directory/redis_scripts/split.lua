#!lua flags=allow-oom
-- ARGV, less the fingerprint that stale_key takes: pseudonyms of an account. Returns as unlink
-- does; the second code is that of the person of
-- the oldest of the others.
local stale = stale_key()
if stale then return stale end
local number = find_account(ARGV[1])
if not number then return nil end
local before, gone = person_of(number), {}
for _, link in ipairs(links_of(number)) do gone[#gone + 1] = {number, link[OTHER], link[KIND]} end
local split = disconnect(gone)
keep_links()
local rest = before.numbers[1] == number and before.numbers[2] or before.numbers[1]
return {account_of(number).code, account_of(same_person_of(rest).first).code, #gone, split and 1 or 0}
