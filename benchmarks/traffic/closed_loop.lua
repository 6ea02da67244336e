-- What wrk sends: the files named after "--", one after the other, each connection going on where the last one was.
-- The last line of the answer is a JSON document, for closed_loop.py. Latencies are in microseconds.
local requests, at = {}, 0

function init(arguments)
  for _, path in ipairs(arguments) do
    local file = assert(io.open(path, "rb"))
    requests[#requests + 1] = wrk.format("POST", nil, nil, file:read("*a"))
    file:close()
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, _)
  local text = '{"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "timeouts": %d, '
    .. '"p50": %.0f, "p90": %.0f, "p99": %.0f, "max": %.0f}\n'
  local errors = summary.errors
  io.write(text:format(
    summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write, errors.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
