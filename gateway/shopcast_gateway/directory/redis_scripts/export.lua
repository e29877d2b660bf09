#!lua flags=no-writes
-- ARGV, less the fingerprint that stale_key takes: pseudonyms of an account. Returns data_reply;
-- nil when it has never been seen.
local stale = stale_key()
if stale then return stale end
local number = find_account(ARGV[1])
return number and data_reply(person_of(number)) or nil
