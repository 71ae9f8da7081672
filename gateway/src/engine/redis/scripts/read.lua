-- Reads messages of one partition, if the caller is its writer.
-- KEYS: the fence, then mailboxes. ARGV: the writer, then for each mailbox the number of its fields, and these.
-- Returns a list of values for each mailbox, or who the writer is ('' for nobody).
local writer = redis.call('HGET', KEYS[1], 'w')
if writer ~= ARGV[1] then
  return writer or ''
end
local found = {}
local at = 2
for key = 2, #KEYS do
  local last = at + tonumber(ARGV[at])
  found[key - 1] = redis.call('HMGET', KEYS[key], unpack(ARGV, at + 1, last))
  at = last + 1
end
return found
