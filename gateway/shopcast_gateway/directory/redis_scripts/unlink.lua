#!lua flags=allow-oom
-- ARGV, less the fingerprint that stale_key takes: pseudonyms of two accounts, kind or ''.
-- Returns the code of either's person, links removed, and 1 where one person became two; nil when
-- an
-- account has never been seen.
local stale = stale_key()
if stale then return stale end
local one, other = find_account(ARGV[1]), find_account(ARGV[2])
if not one or not other then return nil end
local gone = {}
for _, link in ipairs(links_of(one)) do
  if link[OTHER] == other and (ARGV[3] == '' or link[KIND] == ARGV[3]) then
    gone[#gone + 1] = {one, other, link[KIND]}
  end
end
local split = disconnect(gone)
keep_links()
return {account_of(same_person_of(one).first).code, account_of(same_person_of(other).first).code,
  #gone, split and 1 or 0}
