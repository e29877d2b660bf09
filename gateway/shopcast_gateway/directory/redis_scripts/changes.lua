#!lua flags=no-writes
-- ARGV: the number after which to begin, limit. Returns change_reply of each.
local loss = is_lost()
if loss then return loss end
local reply = {}
for at, packed in ipairs(call('ZRANGEBYSCORE', prefix .. 'j', '(' .. ARGV[1], '+inf', 'LIMIT', 0,
  ARGV[2])) do
  reply[at] = change_reply(entry_of(packed))
end
return reply
