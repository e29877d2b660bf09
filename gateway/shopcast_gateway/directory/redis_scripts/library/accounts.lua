-- Accounts, platforms, and other names that get numbers.

local function code_bucket(letter, code)
  return prefix .. letter .. sub(code, 1, 2), sub(code, 3)
end

local function event_bucket(key)
  local third = string.byte(key, 3)
  return prefix .. 'k' .. sub(key, 1, 2) .. string.char(third - third % 64), sub(key, 3)
end

-- pseudonyms: of 16 bytes, under every key, the newest first. The account's number and where in
-- pseudonyms it was found; nil.
local function find_account(pseudonyms)
  for at = 1, #pseudonyms, 16 do
    local number = call('HGET', code_bucket('u', sub(pseudonyms, at, at + 15)))
    if number then return tonumber(number), at end
  end
end

local accounts = {}

local function account_of(number)
  if accounts[number] == nil then
    local packed = call('HGET', prefix .. 'a' .. floor(number / 64), number % 64)
    local account = false
    if packed then
      account = {number = number}
      account.platform, account.key, account.refused, account.created_us, account.pseudonym,
        account.code = struct.unpack(ACCOUNT, packed)
    end
    accounts[number] = account
  end
  return accounts[number]
end

local function keep_account(account)
  accounts[account.number] = account
  call('HSET', prefix .. 'a' .. floor(account.number / 64), account.number % 64,
    struct.pack(ACCOUNT, account.platform, account.key, account.refused, account.created_us,
      account.pseudonym, account.code))
end

local function keep_number(letter, code, number)
  local key, field = code_bucket(letter, code)
  call('HSET', key, field, number)
end

local function forget_code(letter, code)
  call('HDEL', code_bucket(letter, code))
end

local function platform_name(code)
  return call('HGET', prefix .. 'P', code)
end

local codes = {}

-- The code of a name; one is given to a name never seen.
local function intern(letter, name)
  local code = codes[letter .. name]
  if not code then
    code = call('HGET', prefix .. letter, name)
    if not code then
      code = call('HLEN', prefix .. letter) + 1
      call('HSET', prefix .. letter, name, code)
      if letter == 'p' then call('HSET', prefix .. 'P', code, name) end
    end
    codes[letter .. name] = code
  end
  return tonumber(code)
end

-- An error where accounts of so many names would bring in more platforms than there is room for:
-- ACCOUNT has 2 bytes for one. name_at: of the name at a place.
local function crowded(names, name_at)
  local room, seen = 65535 - call('HLEN', prefix .. 'p'), {}
  if names <= room then return nil end
  for at = 1, names do
    local name = name_at(at)
    if not seen[name] and call('HEXISTS', prefix .. 'p', name) == 0 then
      seen[name], room = true, room - 1
    end
  end
  return room < 0 and redis.error_reply('PLATFORMS there are too many') or nil
end

local function lost()
  return redis.error_reply('LOST the server does not hold the directory any more')
end

-- An error where the server has lost the directory, for scripts that look no account up.
local function is_lost()
  return call('EXISTS', KEYS[1]) == 0 and lost() or nil
end

-- The index of the key that new pseudonyms are made with; an error when it is not the one meant.
local function key_index(fingerprint)
  local index = tonumber(call('HGET', KEYS[1], 'key:' .. fingerprint))
  if not index then
    return nil, lost()
  end
  if index ~= tonumber(call('HGET', KEYS[1], 'keys')) then
    return nil, redis.error_reply('ROTATED the pseudonym keys were rotated')
  end
  return index
end

-- Takes the last of ARGV, the fingerprint of the newest key that is known where the script was sent
-- from; an error when the keys were rotated since, and accounts would not be found.
local function stale_key()
  return (select(2, key_index(table.remove(ARGV))))
end

-- identity: the code of the person it would be, then pseudonyms as for find_account. The account's
-- number; one never seen is created, one found under an older key gets its newest pseudonym.
local function admit(platform, identity, key)
  local pseudonyms = sub(identity, 17)
  local newest = sub(pseudonyms, 1, 16)
  local number, at = find_account(pseudonyms)
  if not number then
    number = call('HINCRBY', KEYS[1], 'last_account', 1)
    local code = sub(identity, 1, 16)
    keep_account({
      number = number, platform = intern('p', platform), key = key, refused = 0,
      created_us = now_us(), pseudonym = newest, code = code,
    })
    keep_number('u', newest, number)
    keep_number('o', code, number)
    count('accounts', 1)
    count('people', 1)
    count('accounts:' .. key, 1)
  elseif at > 1 then
    local account = account_of(number)
    count('accounts:' .. account.key, -1)
    forget_code('u', account.pseudonym)
    account.key, account.pseudonym = key, newest
    keep_account(account)
    keep_number('u', newest, number)
    count('accounts:' .. key, 1)
  end
  return number
end
