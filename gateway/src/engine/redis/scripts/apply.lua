-- Applies changes to one partition, if the caller is its writer. All of them can be made twice.
-- KEYS: the fence, then the key of each change.
-- ARGV: the writer, 1 when this is sent again, then for each change its command, the number of its arguments, and these.
-- Returns 1, or who the writer is ('' for nobody) when nothing was changed.
local writer = redis.call('HGET', KEYS[1], 'w')
if writer ~= ARGV[1] then
  return writer or ''
end
if ARGV[2] == '1' then
  -- Whoever waits for the replicas now must have written something to wait for.
  redis.call('HSET', KEYS[1], 'w', writer)
end
local at = 3
for key = 2, #KEYS do
  local last = at + 1 + tonumber(ARGV[at + 1])
  redis.call(ARGV[at], KEYS[key], unpack(ARGV, at + 2, last))
  at = last + 1
end
return 1
