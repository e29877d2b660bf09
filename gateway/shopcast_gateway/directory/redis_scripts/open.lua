#!lua
-- Make a directory where there is none, and check one that is there.
-- ARGV: version, 1 to make it, fingerprints of the ring of keys, the newest first.
-- Returns the version it has, -1 where there is none; how many keys it was written with that the ring
-- lacks; and 1 where the first of the ring is not the newest it was written with.
local version = call('HGET', KEYS[1], 'version')
if not version then
  if ARGV[2] == '0' then return {-1, 0, 0} end
  version = ARGV[1]
  call('HSET', KEYS[1], 'version', version, 'keys', 0)
end
if version ~= ARGV[1] then return {tonumber(version), 0, 0} end
local known = 0
for at = 3, #ARGV do
  if call('HEXISTS', KEYS[1], 'key:' .. ARGV[at]) == 1 then known = known + 1 end
end
local keys, first = call('HGET', KEYS[1], 'keys'), call('HGET', KEYS[1], 'key:' .. ARGV[3])
local lacking = keys - known
if lacking == 0 and not first then
  call('HSET', KEYS[1], 'key:' .. ARGV[3], call('HINCRBY', KEYS[1], 'keys', 1))
end
return {tonumber(version), lacking, first and first ~= keys and 1 or 0}
