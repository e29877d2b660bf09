#!lua flags=no-writes
-- ARGV: the number after which to begin, limit. Returns change_reply of each.
local loss = is_lost()
if loss then return loss end
local reply = {}
local found = call('XRANGE', prefix .. 'j', string.format('(%d-0', ARGV[1]), '+', 'COUNT', ARGV[2])
for at, row in ipairs(found or {}) do
  reply[at] = change_reply(tonumber(string.match(row[1], '^%d+')), cmsgpack.unpack(row[2][2]))
end
return reply
