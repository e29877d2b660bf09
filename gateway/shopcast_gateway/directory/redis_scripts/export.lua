#!lua flags=no-writes
-- ARGV: pseudonyms of an account. Returns data_reply; nil when it has never been seen.
local number = find_account(ARGV[1])
return number and data_reply(person_of(number)) or nil
