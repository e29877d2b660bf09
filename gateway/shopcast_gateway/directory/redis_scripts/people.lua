#!lua flags=no-writes
-- ARGV: account number to begin with, how many people to tell of at most, how many accounts to look
-- at. Tells of each person when their first account comes by.
-- Returns the number to go on with, 0 at the end; then data_reply of each.
local number, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local last = tonumber(call('HGET', KEYS[1], 'last_account') or 0)
local stop, reply = math.min(number + ARGV[3] - 1, last), {0}
while number <= stop and #reply <= limit do
  local person = account_of(number) and person_of(number)
  if person and person.first == number then reply[#reply + 1] = data_reply(person) end
  number = number + 1
end
if number <= last then reply[1] = number end
return reply
