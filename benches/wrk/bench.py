#!/usr/bin/env python3
"""CPU per request of Frontdesk beside nginx and bare Pingora, measured turn by turn in one run.

Each gateway is a proxy with one thread on a core of its own; the origin (an nginx) and the load generator have
the others. nginx and Frontdesk write an access log, Frontdesk also counts its metrics; bare Pingora does nothing
but proxy. What counts is the CPU time of the gateway's processes per answered request, which unlike requests per
second doesn't depend on what the load generator can give. Machines differ and are noisy: trust ratios, not times.
Needs Linux, nginx, wrk, h2load and openssl. gateways.py has every configuration, idle.py the memory.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # set before the modules beside this one are read

from gateways import BINARIES, NAMES, VARIANTS, Bench, Failure, stop  # noqa: E402
from idle import KINDS, measure_idle  # noqa: E402

WRK = ("wrk", "-t1", "-c64", "--timeout", "5s")
# name: (what it is, the load generator, scheme, path); `-d` or `-D` and the URL are added
SCENARIOS = {
    "plain": ("HTTP/1.1, 64 connections, 1 KiB", WRK, "http", "/1k"),
    "tls": ("HTTP/1.1 over TLS, 64 connections, 1 KiB", WRK, "https", "/1k"),
    "h2": ("HTTP/2 over TLS, 8 connections of 8 streams, 1 KiB", ("h2load", "-t1", "-c8", "-m8"), "https", "/1k"),
    "newconn": ("a new connection for each request, 1 KiB", (*WRK, "-H", "Connection: close"), "http", "/1k"),
    "body100k": ("HTTP/1.1, 64 connections, 100 KiB", WRK, "http", "/100k"),
    "compose": ("HTTP/1.1, 64 connections, 1 KiB of JSON: see compose.py", WRK, "http", "/composed"),
}
# A cached hit beside nginx's, the price of a limit, and that of a request that a flood guard refuses.
COMPARISONS = {
    "cache": ["nginx_cache", "cache"],
    "ratelimit": ["frontdesk", "ratelimit"],
    "flood": ["frontdesk", "flood"],
}


def measure(bench, gateway, scenario, seconds):
    """One turn: CPU microseconds and answers per second, or a Failure."""
    _, generator, scheme, path = SCENARIOS[scenario]
    duration = ["-D", str(seconds)] if generator[0] == "h2load" else [f"-d{seconds}s"]
    url = f"{scheme}://127.0.0.1:{gateway.ports[scheme]}{path}"
    before = gateway.cpu_seconds()
    try:
        headers = [part for name, value in gateway.headers.items() for part in ("-H", f"{name}: {value}")]
        done = subprocess.run([*generator, *duration, *headers, url], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              timeout=seconds + 30, preexec_fn=lambda: os.sched_setaffinity(0, {bench.load_cpu}))
    except subprocess.TimeoutExpired:
        raise Failure(f"{scenario}, {gateway.name}: {generator[0]} did not end") from None
    cpu = gateway.cpu_seconds() - before
    gateway.forget_log()
    read = read_h2load if generator[0] == "h2load" else read_wrk
    answered, per_second, errors = read(done.stdout + done.stderr)
    if gateway.is_refused:
        errors = [error for error in errors if not error.startswith("Non-2xx")]
    if done.returncode != 0 or answered == 0:
        errors.append(f"exit code {done.returncode}, {answered} answers: {(done.stdout + done.stderr)[-500:]}")
    if errors:
        raise Failure(f"{scenario}, {gateway.name}: {'; '.join(errors)}")
    return {"cpu_us": cpu / answered * 1e6, "per_second": per_second}


def read_wrk(text):
    """Answers, answers per second, and what went wrong: wrk prints those lines only when something did."""
    errors = re.findall(r"Socket errors: .*|Non-2xx or 3xx responses: \d+", text)
    found = re.search(r"(\d+) requests in .*\nRequests/sec: +([\d.]+)", text, re.S)
    return (int(found[1]), float(found[2]), errors) if found else (0, 0.0, ["wrk reported no requests"])


def read_h2load(text):
    rate = re.search(r"finished in .*, ([\d.]+) req/s", text)
    found = re.search(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    codes = re.search(r"status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    if not rate or not found or not codes:
        return 0, 0.0, ["h2load reported no requests"]
    wrong = [*found.groups()[1:], *codes.groups()]
    errors = [f"{found[0]}; {codes[0]}"] if any(map(int, wrong)) else []
    if "Application protocol: h2\n" not in text:
        errors.append("h2 was not agreed on")
    if "Process Request Failure" in text:  # h2load counts no error for it, and doesn't connect again
        errors.append("a connection was ended by the gateway")
    return int(found[1]), float(rate[1]), errors


def measure_all(bench, names, scenarios, rounds, seconds):
    """Samples by scenario and gateway, one for each round (None where it failed), and the failures."""
    running = [bench.gateway(name) for name in names]
    samples = {scenario: {name: [] for name in names} for scenario in scenarios}
    failures = []
    for number in range(rounds + 1):  # round 0 warms up
        for scenario in scenarios:
            for gateway in running[number % len(names):] + running[:number % len(names)]:
                try:
                    sample = measure(bench, gateway, scenario, seconds if number else 1)
                except Failure as failure:
                    failures.append(f"round {number}, {failure}")
                    sample = None
                if number:
                    samples[scenario][gateway.name].append(sample)
                    note(f"round {number}/{rounds} {scenario:9} {gateway.name:9} "
                         + (f"{sample['cpu_us']:6.1f} us {sample['per_second']:8.0f}/s" if sample else "FAILED"))
    for gateway in running:
        stop(gateway.process)
    return samples, failures


def measure_all_idle(bench, names, connections):
    """Figures by gateway and kind of connection (None where it failed), and the failures."""
    found, failures = {name: {} for name in names}, []
    for kind in KINDS:
        for name in names:
            note(f"idle {kind} {name}")
            try:
                found[name][kind] = measure_idle(bench, name, kind, connections)
            except (Failure, OSError) as failure:
                failures.append(f"idle {kind}, {name}: {failure}")
                found[name][kind] = None
    return found, failures


# --- report ----------------------------------------------------------------------------------------------------


def report(results, options):
    samples, idle, names = results["samples"], results["idle"], options.gateways
    if samples:
        print(f"CPU per request in microseconds: median of {options.rounds} rounds of {options.seconds} s "
              "(lowest-highest)\n")
        figures = {scenario: {name: [one and one["cpu_us"] for one in samples[scenario][name]] for name in names}
                   for scenario in samples}
        table(["", *names], [[scenario, *(spread(figures[scenario][name], "{:.1f}") for name in names)]
                             for scenario in samples])
        pairs = [(name, base) for base in ("bare", "nginx") for name in NAMES if {name, base} <= set(names) and name != base]
        bases = {"cache": "nginx_cache"}
        pairs += [(name, base) for name in VARIANTS if {name, base := bases.get(name, "frontdesk")} <= set(names)]
        if pairs:
            print("Ratios, taken within each round\n")
            table(["", *(f"{name} / {base}" for name, base in pairs)],
                  [[scenario, *(spread(ratios(of[name], of[base]), "{:.2f}") for name, base in pairs)]
                   for scenario, of in figures.items()])
    if idle:
        print(f"Memory: MiB at rest, then KiB for each of {options.connections} idle connections\n")
        table(["", *names], [
            ["at rest", *(figure(idle[name]["plain"], "at_rest_kib", 1024) for name in names)],
            *([kind, *(figure(idle[name][kind], "per_connection_kib", 1) for name in names)] for kind in KINDS)])
    for scenario in samples:
        print(f"{scenario}: {SCENARIOS[scenario][0]}")


def figure(sample, key, unit):
    return f"{sample[key] / unit:.1f}" if sample else "failed"


def ratios(ones, bases):
    return [one / base if one and base else None for one, base in zip(ones, bases)]


def spread(figures, form):
    there = [figure for figure in figures if figure is not None]
    if not there:
        return "failed"
    middle, low, high = (form.format(each) for each in (statistics.median(there), min(there), max(there)))
    return f"{middle} ({low}-{high})"


def table(head, rows):
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
    print()


def note(text):
    print(text, file=sys.stderr, flush=True)


# --- command line ----------------------------------------------------------------------------------------------


def positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError("a whole number above 0 is wanted")
    return int(text)


def arguments():
    def choice(allowed):
        def read(text):
            chosen = text.split(",")
            if unknown := [each for each in chosen if each not in allowed]:
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(allowed)}")
            return [each for each in allowed if each in chosen]
        return read

    everything = (*SCENARIOS, "idle")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=COMPARISONS, help="a comparison by name: its gateways, in `plain`")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each scenario and gateway (5)")
    parser.add_argument("--seconds", type=positive, default=3, help="length of a turn (3)")
    parser.add_argument("--connections", type=positive, default=2000, help="idle connections (2000)")
    parser.add_argument("--only", type=choice(everything), default=[each for each in everything if each != "compose"], metavar="SCENARIO,...",
                        help=", ".join(everything))
    parser.add_argument("--gateways", type=choice((*NAMES, *VARIANTS)), default=NAMES, metavar="NAME,...",
                        help=", ".join((*NAMES, *VARIANTS)))
    parser.add_argument("--json", metavar="FILE", help="write every sample there too")
    options = parser.parse_args()
    if options.what:
        options.only, options.gateways = ["plain"], COMPARISONS[options.what]
    return options


def prepare(options):
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [tool for tool in ("nginx", "wrk", "h2load", "openssl") if not shutil.which(tool)]
    missing += [str(BINARIES[name]) for name in options.gateways if name in BINARIES and not BINARIES[name].exists()]
    if missing:
        raise Failure(f"missing: {', '.join(missing)}; `./dev bench` installs and builds them")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))  # the gateways inherit it
    if "idle" in options.only and files < options.connections + 500:
        raise Failure(f"{files} open files are allowed, too few for {options.connections} connections")


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes are ended
    samples, idle, failures = {}, {}, []
    try:
        prepare(options)
        with tempfile.TemporaryDirectory(prefix="frontdesk-bench-") as directory, contextlib.ExitStack() as stack:
            bench = Bench(directory, options.connections, stack)
            scenarios = [each for each in options.only if each != "idle"]
            if scenarios:
                samples, failures = measure_all(bench, options.gateways, scenarios, options.rounds, options.seconds)
            if "idle" in options.only:
                idle, more = measure_all_idle(bench, options.gateways, options.connections)
                failures += more
    except (Failure, OSError) as failure:
        sys.exit(f"bench: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
    results = {"rounds": options.rounds, "seconds": options.seconds, "connections": options.connections,
               "samples": samples, "idle": idle, "failures": failures}
    report(results, options)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    for failure in failures:
        note(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
