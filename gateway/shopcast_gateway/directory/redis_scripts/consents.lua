#!lua flags=no-writes
-- ARGV: pseudonyms of an account. Returns platform and refused bits of each account of the person.
local number = find_account(ARGV[1])
return number and refusals_reply(person_of(number)) or {}
