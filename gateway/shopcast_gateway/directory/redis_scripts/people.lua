#!lua flags=no-writes
-- ARGV: account number to begin with, how many people to tell of at most, how many accounts to look
-- at, after how many events to stop. Tells of each person when their first account comes by.
-- Returns the number to go on with, 0 at the end; then data_reply of each.
local loss = is_lost()
if loss then return loss end
local number, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local last = tonumber(call('HGET', KEYS[1], 'last_account') or 0)
local stop, reply = math.min(number + ARGV[3] - 1, last), {0}
local left = tonumber(ARGV[4])
while number <= stop and #reply <= limit and left > 0 do
  local person = account_of(number) and same_person_of(number)
  if person and person.first == number then
    reply[#reply + 1] = data_reply(person)
    for _, letter in ipairs({'e', 'q'}) do
      for _, one in ipairs(person.numbers) do left = left - call('ZCARD', prefix .. letter .. one) end
    end
  end
  number = number + 1
end
if number <= last then reply[1] = number end
return reply
