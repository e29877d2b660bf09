#!lua
-- ARGV: fingerprint; of each statement platform and identity of two accounts, kind, confidence and
-- source. Returns for each the person's code, and 1 where two persons became one, and where the link was
-- surer before.
local key, refusal = key_index(ARGV[1])
if not key then return refusal end
local platforms = {}
for at = 2, #ARGV, 7 do
  platforms[#platforms + 1], platforms[#platforms + 2] = ARGV[at], ARGV[at + 2]
end
refusal = crowded(#platforms, function(at) return platforms[at] end)
if refusal then return refusal end
local reply = {}
for at = 2, #ARGV, 7 do
  local one, other = admit(ARGV[at], ARGV[at + 1], key), admit(ARGV[at + 2], ARGV[at + 3], key)
  local merged, change, weakened = false, nil, false
  if one ~= other then
    merged, change, weakened = connect(one, other, ARGV[at + 4], tonumber(ARGV[at + 5]), ARGV[at + 6])
  end
  reply[#reply + 1] = {account_of(same_person_of(one).first).code, merged and 1 or 0, weakened and 1 or 0}
end
keep_links()
return reply
