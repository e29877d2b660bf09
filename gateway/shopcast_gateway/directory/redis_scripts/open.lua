#!lua
-- Make a directory where there is none, and check one that is there.
-- ARGV: version, fingerprints of the ring of keys, the newest first.
-- Returns the version it has, and how many keys it was written with that the ring lacks.
local version = call('HGET', KEYS[1], 'version')
if not version then
  version = ARGV[1]
  call('HSET', KEYS[1], 'version', version, 'keys', 0)
end
if version ~= ARGV[1] then return {tonumber(version), 0} end
local known = 0
for at = 2, #ARGV do
  if call('HEXISTS', KEYS[1], 'key:' .. ARGV[at]) == 1 then known = known + 1 end
end
local lacking = call('HGET', KEYS[1], 'keys') - known
if lacking == 0 and call('HEXISTS', KEYS[1], 'key:' .. ARGV[2]) == 0 then
  call('HSET', KEYS[1], 'key:' .. ARGV[2], call('HINCRBY', KEYS[1], 'keys', 1))
end
return {tonumber(version), lacking}
