-- Writes purges into the log, each with the next number.
-- The name of a log that begins here, who writes, how many are kept, then the purges.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local number, log = 0, ARGV[1]
if last then
  number, log = tonumber(string.match(last[1], '%d+')), last[2][2]
end
for i = 4, #ARGV do
  number = number + 1
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], string.format('%d-0', number), 'log', log, 'by', ARGV[2], 'what', ARGV[i])
end
return number
