#!lua flags=no-writes
-- ARGV, less the fingerprint that stale_key takes: pseudonyms, before_us, limit, as_of_us or '',
-- bit of the purpose or 0.
-- Returns events_reply.
local stale = stale_key()
if stale then return stale end
local number, as_of_us = find_account(ARGV[1]), tonumber(ARGV[4])
if not number then return {{}, {}, {}} end
local person = person_of(number, as_of_us)
local used = usable(person, tonumber(ARGV[5]), 0)
return events_reply(newest_events(used, tonumber(ARGV[2]), tonumber(ARGV[3]), as_of_us), person)
