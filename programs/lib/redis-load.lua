-- 200,000 deterministic commands: strings, hashes, lists, sets and sorted sets of many sizes, then half deleted.
local seed = 12345
local function random(n)
  seed = (seed * 1103515245 + 12345) % 2147483648
  return math.floor(seed / 65536) % n
end
for i = 1, 40000 do
  redis.call('SET', 'string:' .. i, string.rep('v', random(400)))
  redis.call('APPEND', 'string:' .. random(i + 1), 'tail')
  redis.call('HSET', 'hash:' .. random(500), 'field' .. random(100), i)
  redis.call('RPUSH', 'list:' .. random(200), string.rep('e', random(60)))
  redis.call('ZADD', 'sorted:' .. random(50), random(100000), 'm' .. random(2000))
end
for i = 1, 40000, 2 do
  redis.call('DEL', 'string:' .. i)
end
return redis.call('DBSIZE')
