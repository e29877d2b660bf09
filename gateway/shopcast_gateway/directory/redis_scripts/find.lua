#!lua flags=no-writes
-- ARGV: a person code. Returns person_reply or ''.
local loss = is_lost()
if loss then return loss end
local number = call('HGET', code_bucket('o', ARGV[1]))
return number and person_reply(person_of(tonumber(number))) or ''
