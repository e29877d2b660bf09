#!lua flags=no-writes
-- ARGV, less the fingerprint that stale_key takes: as_of_us or '', then pseudonyms of each
-- account. Returns person_reply or '' for each.
local stale = stale_key()
if stale then return stale end
local as_of_us, people = tonumber(ARGV[1]), {}
for at = 2, #ARGV do
  local number = find_account(ARGV[at])
  if not number or as_of_us and account_of(number).created_us > as_of_us then
    people[at - 1] = ''
  else
    people[at - 1] = person_reply(person_of(number, as_of_us))
  end
end
return people
