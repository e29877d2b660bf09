#!lua flags=no-writes
-- ARGV, less the fingerprint that stale_key takes: pseudonyms of an account. Returns platform and
-- refused bits of each account of the person.
local stale = stale_key()
if stale then return stale end
local number = find_account(ARGV[1])
return number and refusals_reply(person_of(number)) or {}
