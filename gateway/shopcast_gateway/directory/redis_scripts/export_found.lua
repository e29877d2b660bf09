#!lua flags=no-writes
-- ARGV: a person code. Returns data_reply; nil when nobody has it.
local number = call('HGET', code_bucket('o', ARGV[1]))
return number and data_reply(person_of(tonumber(number))) or nil
