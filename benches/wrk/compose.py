#!/usr/bin/env python3
"""What shaping and composing cost, measured turn by turn in one run.

CPU per request of a compose of three calls beside one forward of the same answer, of changed header fields beside none, and how long
an answer takes whose three calls take 20 ms each. Needs what bench.py needs.
"""

import argparse
import contextlib
import http.client
import os
import pathlib
import statistics
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # set before the modules beside this one are read

from bench import measure_all, note, positive, ratios, spread, table  # noqa: E402
from gateways import BINARIES, Bench, Failure, free_ports  # noqa: E402

MARKS = {"composed": ("compose", 3.5), "shaped": ("plain", 1.02)}
CALL_MS = 20
SLOW = f"""
import socketserver, sys, time
class Slow(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline():
            while self.rfile.readline().strip():
                pass
            time.sleep({CALL_MS / 1000})
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: 8\\r\\n\\r\\n{{\\"a\\": 1}}")
socketserver.ThreadingTCPServer.daemon_threads = True
socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Slow).serve_forever()
"""
CONFIG = """\
listeners: [{{ bind: "127.0.0.1:{port}" }}]
server: {{ threads: 1 }}
services: {{ slow: {{ endpoints: ["127.0.0.1:{slow}"] }} }}
routes:
  - {{ path: /one, to: slow }}
  - {{ path: /three, compose: {{ calls: {{ a: {{ to: slow, path: /a }}, b: {{ to: slow, path: /b }}, c: {{ to: slow, path: /c }} }} }} }}
"""


def took_ms(port, path, times):
    """Milliseconds of so many requests, one after the other on one connection."""
    found = []
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        for _ in range(times):
            before = time.perf_counter()
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200 or answer.getheader("X-Frontdesk-Complete"):
                raise Failure(f"{path} was answered with {answer.status}, or a part of it")
            found.append((time.perf_counter() - before) * 1000)
    return found


def measure_latency(bench, times):
    """The median of a request for one call and of one for three, through the gateway, and without it."""
    slow, port = free_ports(2)
    config = pathlib.Path(f"{bench.dir}/slow.yaml")
    config.write_text(CONFIG.format(port=port, slow=slow))
    bench.launch("slow origin", [sys.executable, "-c", SLOW, str(slow)], bench.origin_cpu)
    bench.launch("slow", [BINARIES["frontdesk"], "run", "-c", config], bench.gateway_cpu)
    for each, path in ((slow, "/"), (port, "/three")):
        wait_until_open(each, path)
    return {path: statistics.median(took_ms(each, path, times)) for each, path in ((slow, "/"), (port, "/one"), (port, "/three"))}


def wait_until_open(port, path):
    deadline = time.monotonic() + 15
    while True:
        try:
            return took_ms(port, path, 3)
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > deadline:
                raise Failure(f"nobody answers on {port}: {error}") from error
            time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each gateway (5)")
    parser.add_argument("--seconds", type=positive, default=3, help="length of a turn (3)")
    parser.add_argument("--times", type=positive, default=200, help="requests whose time is taken (200)")
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    try:
        with tempfile.TemporaryDirectory(prefix="frontdesk-bench-") as directory, contextlib.ExitStack() as stack:
            bench = Bench(directory, 0, stack)
            samples, failures = measure_all(bench, ("frontdesk", *MARKS), ("plain", "compose"), options.rounds, options.seconds)
            latency = measure_latency(bench, options.times)
    except (Failure, OSError) as failure:
        sys.exit(f"bench: {failure}")
    cpu = {scenario: {name: [one and one["cpu_us"] for one in of] for name, of in names.items()} for scenario, names in samples.items()}
    print("CPU per request in microseconds, and as a ratio of the same scenario's plain forward\n")
    table(["", "forward", "this", "ratio", "mark"], [
        [name, spread(cpu[scenario]["frontdesk"], "{:.1f}"), spread(cpu[scenario][name], "{:.1f}"),
         spread(ratios(cpu[scenario][name], cpu[scenario]["frontdesk"]), "{:.3f}"), f"{mark}"]
        for name, (scenario, mark) in MARKS.items()])
    print(f"Milliseconds of an answer whose calls take {CALL_MS} ms each, the median of {options.times}\n")
    table(["one, without the gateway", "one", "three side by side", "mark"],
          [[*(f"{latency[path]:.2f}" for path in ("/", "/one", "/three")), f"{CALL_MS * 1.1:.0f}"]])
    for failure in failures:
        note(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
