-- Charges keys of shared limits, by the clock of this server.
-- A key is the moment at which its bucket will be full again, in microseconds since the origin below; full buckets are not kept.
-- Of each key: microseconds a request, microseconds of a whole bucket, requests wanted, requests given back, and whether the
-- others are charged only if this one has what is wanted. Answers, of each: requests granted, and microseconds owed.
local time = redis.call('TIME')
local now = (time[1] - 1700000000) * 1000000 + time[2]
local is_blocked, asked = false, {}
for i, key in ipairs(KEYS) do
  local n = (i - 1) * 5
  local each, room, want = tonumber(ARGV[n + 1]), tonumber(ARGV[n + 2]), tonumber(ARGV[n + 3])
  local full = (tonumber(redis.call('GET', key) or '0') or 0) - ARGV[n + 4] * each
  -- A clock that was set back must not shut anybody out for longer than an empty bucket does.
  full = math.max(now, math.min(full, now + room))
  local granted = math.max(0, math.min(want, math.floor((room - full + now) / each + 1e-6)))
  is_blocked = is_blocked or (ARGV[n + 5] == '1' and granted < want)
  asked[i] = { each = each, full = full, granted = granted }
end
local answer = {}
for i, key in ipairs(KEYS) do
  local one = asked[i]
  if not is_blocked then
    one.full = one.full + one.granted * one.each
    if one.full > now then
      redis.call('SET', key, string.format('%.17g', one.full), 'PX', math.ceil((one.full - now) / 1000))
    else
      redis.call('DEL', key)
    end
  end
  answer[2 * i - 1], answer[2 * i] = one.granted, math.ceil(one.full - now)
end
return answer
