#!lua flags=allow-oom
-- ARGV: fingerprint, platform and identity of an account, bits to allow, bits to refuse, 1 for all
-- of the person's accounts. Returns platform and refused bits of each of them.
local key, refusal = key_index(ARGV[1])
if not key then return refusal end
refusal = crowded(1, function() return ARGV[2] end)
if refusal then return refusal end
local number = admit(ARGV[2], ARGV[3], key)
local allow, refuse = tonumber(ARGV[4]), tonumber(ARGV[5])
local person = person_of(number)
for _, one in ipairs(ARGV[6] == '1' and person.numbers or {number}) do
  local account = account_of(one)
  account.refused = bit.bor(bit.band(account.refused, bit.bnot(allow)), refuse)
  keep_account(account)
end
return refusals_reply(person)
