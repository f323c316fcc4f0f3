"""Endpoints that die, freeze, fail and crawl under constant load. `python3 faults.py BINARY [PART OF A CASE'S NAME]`

Three endpoints, so many requests a second whatever happens: each is timed from the moment at which it was due, so that nothing is
hidden by a client that waits. A mark that is missed is a failure."""

import asyncio
from common import *

RATE = 400
# What an endpoint takes for an answer; a slow one takes ten times as long.
TAKES_MS = 10
SERVICE = """{ endpoints: [ENDPOINTS], timeouts: { connect: 1s, read: 5s },
    retries: { attempts: 3, when: [connect, reset, 502, 503, 504], per_try: 300ms }, MORE }"""
YAML = """
listeners: [{ name: plain, bind: 127.0.0.1:0 }]
server: { threads: 2 }
access_log: { path: /dev/null }
services:
  s: SERVICE
  other: OTHER
routes: [{ path: /other/*, to: other }, { path: /*, to: s }]
"""


class Serving(asyncio.Protocol):
    """One connection of an endpoint."""

    def __init__(self, takes, fails, connections):
        self.takes, self.fails, self.connections, self.read, self.asked = takes, fails, connections, b"", 0

    def connection_made(self, transport):
        self.transport = transport
        self.connections.add(self)

    def connection_lost(self, _):
        self.connections.discard(self)

    def data_received(self, data):
        self.read += data
        while b"\r\n\r\n" in self.read:
            self.read = self.read.split(b"\r\n\r\n", 1)[1]
            self.asked += 1
            asyncio.get_running_loop().call_later(self.takes / 1000, self.answer)

    def answer(self):
        import random

        self.asked -= 1
        status = b"503 Service Unavailable" if random.random() < self.fails else b"200 OK"
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\nok")


def serve(port, takes, fails):
    """An endpoint, until SIGTERM: then it takes no more connections, finishes what it has begun, and ends."""

    async def run():
        loop, connections, stop = asyncio.get_running_loop(), set(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        server = await loop.create_server(lambda: Serving(takes, fails, connections), "127.0.0.1", port, backlog=4096)
        await stop.wait()
        server.close()
        while any(connection.asked for connection in connections):
            await asyncio.sleep(0.005)
        for connection in list(connections):
            connection.transport.close()
        await asyncio.sleep(0.01)

    asyncio.run(run())


class Endpoint:
    def __init__(self, takes=TAKES_MS, fails=0.0):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.takes, self.fails = takes, fails
        self.start()

    def start(self):
        self.process = context.Process(target=serve, args=(self.port, self.takes, self.fails), daemon=True)
        self.process.start()

        def answers():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True

        if not eventually(answers, 20, 0.005):
            raise SystemExit("an endpoint did not start")

    def send(self, number):
        os.kill(self.process.pid, number)

    def end(self, number=signal.SIGTERM):
        self.send(number)
        self.process.join(20)

    def __str__(self):
        return f"127.0.0.1:{self.port}"


class Load:
    """Requests at a constant rate over connections that are kept. Of each: when it was due, how long it took, and its status; 0 is
    a connection that broke."""

    def __init__(self, port, path="/x", rate=RATE):
        self.port, self.path, self.rate, self.done, self.idle = port, path, rate, [], []

    async def run(self, seconds):
        begin = time.monotonic()
        self.begin, tasks = begin, set()
        for i in range(int(seconds * self.rate)):
            due = begin + i / self.rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.ensure_future(self.one(due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def one(self, due):
        status, stream = 0, None
        try:
            stream = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = stream
            writer.write(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % self.path.encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            status = int(head[9:12])
            await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
            if b"connection: close" in head.lower():
                writer.close()
            else:
                self.idle.append(stream)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            if stream:
                stream[1].close()
        self.done.append((due - self.begin, (time.monotonic() - due) * 1000, status))

    def errors(self, begin=0, end=1e9):
        return [(due, status) for due, _, status in self.done if begin <= due < end and status != 200]

    def quantile(self, share, begin=0, end=1e9):
        took = sorted(took for due, took, _ in self.done if begin <= due < end)
        return took[min(len(took) - 1, int(share * len(took)))] if took else float("nan")


@contextlib.contextmanager
def gateway(endpoints, more="balance: least_request", other="{ endpoints: [127.0.0.1:9] }"):
    service = SERVICE.replace("ENDPOINTS", ", ".join(map(str, endpoints))).replace("MORE", more)
    running = Gateway(YAML.replace("SERVICE", service).replace("OTHER", other))
    try:
        yield running
    finally:
        running.close()
        for endpoint in endpoints:
            endpoint.process.kill()


def under_load(running, seconds, *events):
    """Puts load on it, and makes each event (when, what) happen; what waits does so beside the load."""
    load = Load(running.ports["plain"])

    async def run():
        async def happen(at, what):
            await asyncio.sleep(at)
            await asyncio.to_thread(what)

        await asyncio.gather(load.run(seconds), *(happen(at, what) for at, what in events))

    asyncio.run(run())
    return load


def states(running):
    service = json.loads(running.ask())["services"][0]
    return {endpoint["address"]: endpoint["state"] for endpoint in service["endpoints"]}


def kill_one(report):
    endpoints = [Endpoint() for _ in range(3)]
    with gateway(endpoints) as running:
        load = under_load(running, 6, (2, lambda: endpoints[0].end(signal.SIGKILL)))
        errors, p99 = load.errors(), load.quantile(0.99, 2, 4)
        report.case("kill -9 of one", not errors, f"{len(errors)} errors of {len(load.done)}, p99 {p99:.1f} ms in the 2 s behind it")


def stop_one(report):
    endpoints = [Endpoint() for _ in range(3)]
    with gateway(endpoints) as running:
        seen = {}

        def stop():
            endpoints[0].send(signal.SIGSTOP)
            begin = time.monotonic()
            if eventually(lambda: states(running)[str(endpoints[0])] == "ejected", 10, 0.02):
                seen["ejected"] = time.monotonic() - begin

        load = under_load(running, 7, (2, stop))
        endpoints[0].send(signal.SIGCONT)
        healthy, after = load.quantile(0.99, 0.5, 2), load.quantile(0.99, 4, 7)
        errors, ejected = load.errors(), seen.get("ejected", float("nan"))
        report.case("SIGSTOP of one: errors", not errors, f"{len(errors)} of {len(load.done)}: what was in flight was tried again")
        report.case("SIGSTOP of one: ejected", ejected < 1, f"after {ejected:.2f} s")
        report.case("SIGSTOP of one: p99", after < 1.5 * healthy, f"{healthy:.1f} ms before, {after:.1f} ms from 2 s behind it")


def one_fails(report):
    endpoints = [Endpoint(fails=0.3), Endpoint(), Endpoint()]
    with gateway(endpoints) as running:
        load = under_load(running, 8)
        share = len(load.errors()) / len(load.done)
        report.case("503 from one to 30 percent", share < 0.01, f"clients see {share:.2%}")


def one_slow(report):
    p99 = {}
    for balance, takes in [("least_request", TAKES_MS), ("least_request", 10 * TAKES_MS), ("round_robin", 10 * TAKES_MS)]:
        endpoints = [Endpoint(takes=takes), Endpoint(), Endpoint()]
        with gateway(endpoints, f"balance: {balance}") as running:
            load = under_load(running, 8)
            p99[balance, takes] = load.quantile(0.99, 2)
    healthy, p2c, turns = p99.values()
    seen = f"p99 {healthy:.1f} ms when all are well, {p2c:.1f} ms with least_request, {turns:.1f} ms with round_robin"
    report.case("one 10 times slower", p2c <= 1.5 * healthy, seen)


def all_down(report):
    endpoints = [Endpoint() for _ in range(3)]
    with gateway(endpoints) as running:
        back = {}

        def die():
            for endpoint in endpoints:
                endpoint.end(signal.SIGKILL)

        def rise():
            for endpoint in endpoints:
                endpoint.start()
                back.setdefault("at", time.monotonic())

        load = under_load(running, 10, (2, die), (6, rise))
        back = back["at"] - load.begin
        good = [due + took / 1000 - back for due, took, status in load.done if status == 200 and due > 3]
        first, late = min(good, default=float("inf")), load.errors(back + 1)
        seen = f"first success {first:.2f} s behind the first endpoint's return, {len(late)} errors from 1 s behind it"
        report.case("all down and back", first < 1 and not late, seen)


def rolling(report):
    endpoints = [Endpoint() for _ in range(3)]

    def restart(endpoint):
        endpoint.end()
        endpoint.start()

    with gateway(endpoints) as running:
        events = [(2 + 2 * i, lambda endpoint=endpoint: restart(endpoint)) for i, endpoint in enumerate(endpoints)]
        load = under_load(running, 9, *events)
        errors = load.errors()
        report.case("rolling restart", not errors, f"{len(errors)} errors of {len(load.done)}")


def beside(report):
    """Another service is frozen: it takes connections and says nothing, and clients wait for it in numbers."""
    endpoints, frozen = [Endpoint() for _ in range(3)], Endpoint()
    with gateway(endpoints, other=f"{{ endpoints: ['{frozen}'], timeouts: {{ read: 1s }}, retries: {{ attempts: 1 }} }}") as running:
        port = running.ports["plain"]

        def both():
            load = Load(port)

            async def run():
                await asyncio.gather(load.run(6), Load(port, "/other/x", 100).run(6))

            asyncio.run(run())
            return load

        healthy = both()
        frozen.send(signal.SIGSTOP)
        ill = both()
        frozen.process.kill()
        before, after = (load.quantile(0.99, 1) for load in (healthy, ill))
        good = not ill.errors() and after <= max(1.5 * before, before + 5)
        report.case("an outage beside it", good, f"p99 {before:.1f} ms, {after:.1f} ms while another service is frozen; {len(ill.errors())} errors")


def main():
    report = Report()
    for case in [kill_one, stop_one, one_fails, one_slow, all_down, rolling, beside]:
        if report.wants(case.__name__):
            case(report)
    report.end()


if __name__ == "__main__":
    main()
