#!lua flags=allow-oom
-- ARGV, less the fingerprint that stale_key takes: number of a change. Returns change_reply of the
-- change that took it back, or of the newest
-- change of its link; nil when it cannot be taken back.
local stale = stale_key()
if stale then return stale end
local entry = entry_at(ARGV[1])
if not entry or entry[1] == ERASED then return nil end
local one, other, kind = entry[3], entry[4], entry[5]
local newest, before = 0, nil
for _, link in ipairs(links_of(one)) do
  if link[OTHER] == other and link[KIND] == kind then newest = math.max(newest, link[MADE]) end
end
for _, link in ipairs(former_links_of(one)) do
  if link[OTHER] == other and link[KIND] == kind then
    newest = math.max(newest, link[ENDED])
    if link[ENDED] == tonumber(ARGV[1]) then before = link end
  end
end
local change = newest
if newest == tonumber(ARGV[1]) then
  if entry[1] == UNLINKED then
    change = select(2, connect(one, other, kind, entry[6], entry[7]))
  elseif before then
    change = select(2, connect(one, other, kind, before[CONFIDENCE], before[SOURCE]))
  else
    change = select(2, disconnect({{one, other, kind}}))
  end
  keep_links()
end
return change_reply(change, entry_at(change))
