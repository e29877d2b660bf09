#!lua flags=no-writes
-- ARGV: the number after which to begin, limit. Returns the newest number there was ever; then
-- change_reply of each.
local loss = is_lost()
if loss then return loss end
local reply = {tonumber(call('HGET', KEYS[1], 'last_change') or 0)}
for at, packed in ipairs(call('ZRANGEBYSCORE', prefix .. 'j', '(' .. ARGV[1], '+inf', 'LIMIT', 0,
  ARGV[2])) do
  reply[at + 1] = change_reply(entry_of(packed))
end
return reply
