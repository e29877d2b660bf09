#!lua flags=allow-oom
-- ARGV: number of a change. Returns change_reply of the change that took it back, or of the newest
-- change of its link; nil when it cannot be taken back.
local entry = entry_at(ARGV[1])
if not entry or entry[1] == ERASED then return nil end
local one, other, kind = entry[3], entry[4], entry[5]
local change
if entry[1] == LINKED and link_between(one, other, kind) then
  change = select(2, disconnect(one, other, kind))
elseif entry[1] == UNLINKED and not link_between(one, other, kind) then
  change = select(2, connect(one, other, kind, entry[6], entry[7]))
else
  change = 0
  for _, link in ipairs(links_of(one)) do
    if link[OTHER] == other and link[KIND] == kind then change = math.max(change, link[MADE]) end
  end
  for _, link in ipairs(former_links_of(one)) do
    if link[OTHER] == other and link[KIND] == kind then change = math.max(change, link[ENDED]) end
  end
end
return change_reply(change, entry_at(change))
