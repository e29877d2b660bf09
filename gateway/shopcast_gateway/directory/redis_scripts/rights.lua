#!lua flags=no-writes
-- ARGV: a key that never exists, named as those that lie outside of the slot. Returns the commands,
-- of those that scripts and the gateway run, that the user may not run on the directory's keys, and
-- those that the server does not have, or has by another name.
local lacking, unknown = {}, {}
for _, command in ipairs({'DEL', 'EXISTS', 'GET', 'HDEL', 'HEXISTS', 'HGET', 'HINCRBY', 'HLEN', 'HMGET',
  'HSET', 'LRANGE', 'MGET', 'RPUSH', 'SADD', 'SET', 'SMEMBERS', 'SREM', 'TIME', 'UNLINK', 'ZADD',
  'ZCARD', 'ZRANGE', 'ZRANGEBYSCORE', 'ZREM', 'ZREMRANGEBYSCORE', 'ZREVRANGEBYSCORE'}) do
  local known, allowed = pcall(redis.acl_check_cmd, command, KEYS[2])
  if not known then
    unknown[#unknown + 1] = command
  elseif not (allowed and redis.acl_check_cmd(command, ARGV[1])) then
    lacking[#lacking + 1] = command
  end
end
return {lacking, unknown}
