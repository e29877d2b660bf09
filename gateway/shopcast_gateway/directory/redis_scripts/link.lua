#!lua
-- ARGV: fingerprint, platform and identity of two accounts, kind, confidence, source.
-- Returns the person's code, and 1 where two persons became one.
local key, refusal = key_index(ARGV[1])
if not key then return refusal end
local one, other = admit(ARGV[2], ARGV[3], key), admit(ARGV[4], ARGV[5], key)
local merged = one ~= other and connect(one, other, ARGV[6], tonumber(ARGV[7]), ARGV[8])
return {account_of(person_of(one).first).code, merged and 1 or 0}
