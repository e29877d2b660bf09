#!lua flags=no-writes
-- ARGV: fingerprints. Returns accounts, people, links, events, quarantined events, items, entries
-- of
-- the journal; then accounts by key, in the order of the fingerprints; then encoders of vectors.
local loss = is_lost()
if loss then return loss end
local function total(name) return tonumber(call('HGET', KEYS[1], name) or 0) end
local reply = {total('accounts'), total('people'), total('links'), total('events'),
  total('quarantined'), total('items'), call('ZCARD', prefix .. 'j')}
local by_key = {}
for at, fingerprint in ipairs(ARGV) do
  local index = call('HGET', KEYS[1], 'key:' .. fingerprint)
  by_key[at] = index and total('accounts:' .. index) or 0
end
return {reply, by_key, call('SMEMBERS', prefix .. 'v')}
