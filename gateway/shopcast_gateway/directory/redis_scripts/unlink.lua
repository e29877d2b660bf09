#!lua flags=allow-oom
-- ARGV, less the fingerprint that stale_key takes: pseudonyms of two accounts, kind or ''.
-- Returns the code of either's person, links removed, and 1 where one person became two; nil when
-- an
-- account has never been seen.
local stale = stale_key()
if stale then return stale end
local one, other = find_account(ARGV[1]), find_account(ARGV[2])
if not one or not other then return nil end
local kinds, split = {}, false
for _, link in ipairs(links_of(one)) do
  if link[OTHER] == other and (ARGV[3] == '' or link[KIND] == ARGV[3]) then
    kinds[#kinds + 1] = link[KIND]
  end
end
for _, kind in ipairs(kinds) do split = disconnect(one, other, kind) or split end
return {account_of(person_of(one).first).code, account_of(person_of(other).first).code, #kinds,
  split and 1 or 0}
