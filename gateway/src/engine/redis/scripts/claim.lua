-- Makes the caller the writer of a partition unless a newer claim is there, or another one of the same epoch.
-- KEYS: the fence, the sessions, the retained messages, the routes.
-- ARGV: the epoch, the node, and a number that the reserved sequences must reach.
-- Returns {1, sequences below this may be in use, sessions, number of retained messages, number of routes}, or {0, epoch, node} of
-- the other claim. Numbers have up to 64 bits, more than Lua's: they are compared as the texts they come as.
local function is_less(a, b)
  return #a < #b or (#a == #b and a < b)
end
local writer = redis.call('HGET', KEYS[1], 'w')
if writer then
  local epoch, node = string.match(writer, '^(%d+):(%d+)$')
  if is_less(ARGV[1], epoch) or (ARGV[1] == epoch and ARGV[2] ~= node) then
    return {0, epoch, node}
  end
end
local reserved = redis.call('HGET', KEYS[1], 'n') or '1'
if is_less(reserved, ARGV[3]) then
  reserved = ARGV[3]
end
redis.call('HSET', KEYS[1], 'w', ARGV[1] .. ':' .. ARGV[2], 'n', reserved)
return {1, reserved, redis.call('SMEMBERS', KEYS[2]), redis.call('HLEN', KEYS[3]), redis.call('HLEN', KEYS[4])}
