"""HTTP/2 from outside, over h2c and TLS: floods, stalls, and requests that must not be. `python3 http2.py BINARY [PART OF A CASE'S NAME]`"""

from common import *

YAML = """
listeners:
  - { name: plain, bind: 127.0.0.1:0 }
  - { name: tls, bind: 127.0.0.1:0, tls: { certificates: [{ cert: DIR/cert.pem, key: DIR/key.pem }] } }
server:
  threads: 2
  timeouts: { request_header: 2s, request_body: 2s, keepalive: 3s, client_write: 2s, tls_handshake: 2s }
  limits: { header_bytes: 32KiB, header_count: 100 }
  http2: { max_concurrent_streams: 100, idle_timeout: 3s }
services: { s: { endpoints: [ORIGIN], timeouts: { read: 20s } } }
routes:
  - { path: /fixed, respond: { body: fixed } }
  - { path: /*, to: s }
"""
# CPU a byte is told in an honest client's that asks for what the gateway answers by itself; to ask a service costs several times that.
MEMORY_MIB, HONEST_MS, LOG_LINES, COST = 64, 200, 50, 6


def script(sock, head):
    path = head.split()[1]
    if path.startswith(b"/held"):
        sock.settimeout(8)
        with contextlib.suppress(TimeoutError):
            sock.recv(1)
        return False
    if path.startswith(b"/unread"):
        time.sleep(4)
        return False
    if path.startswith(b"/large"):
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            sock.sendall(b"x" * 65536)
    sock.sendall(ok(head))
    return True


def attack(gateway, kind, opening, chunks, units, seconds, reads):
    """Sends the chunks over and over, on new connections when one is ended; says how much, and what was heard."""
    due, total, connections, sent, heard, ends = time.monotonic() + seconds, 0, 0, 0, collections.Counter(), collections.Counter()
    while total < units and time.monotonic() < due and connections < 3000:
        connections += 1
        try:
            pump = Pump(gateway.connect("tls" if kind == "tls" else "plain", ["h2"]), reads)
        except OSError as e:
            ends[f"connect: {type(e).__name__}"] += 1
            continue
        pump.go(opening, due)
        for chunk, count in chunks:
            if total >= units or not pump.go(chunk, due):
                break
            total += count
        if reads and pump.end is None:
            pump.rest(0.3)
        if not reads:
            time.sleep(1)
        sent += pump.sent
        heard += pump.heard()
        ends[pump.end or "open"] += 1
        with contextlib.suppress(OSError):
            pump.sock.close()
    return total, sent, connections, dict(heard), dict(ends)


def paced(gateway, kind, make, units, seconds, each=50):
    """Units of a stream each, some at a time: the next ones only when a PING behind the last ones is answered, below what counts as a flood."""
    due, total, connections, sent, resets, ends = time.monotonic() + seconds, 0, 0, 0, collections.Counter(), collections.Counter()
    while total < units and time.monotonic() < due and connections < 3000:
        connections += 1
        with H2(gateway, kind) as client:
            stream = 1
            while total < units and time.monotonic() < due and client.end is None and not client.goaway:
                data = b"".join(make(stream + 2 * i) for i in range(each)) + frame(PING, 0, 0, bytes(8))
                stream, total, sent, pongs = stream + 2 * each, total + each, sent + len(data), client.pongs
                if not client.send(data):
                    break
                client.hear(lambda: client.pongs > pongs or client.goaway, 2)
            resets.update("RST " + code for code in client.resets.values())
            resets.update(["GOAWAY " + client.goaway] if client.goaway else [])
            resets["HEADERS"] += len(client.statuses)
            ends[client.end or "open"] += 1
    return total, sent, connections, dict(resets), dict(ends)


def repeated(unit, each=1000, times=100):
    return [(unit * each, each)] * times


def streams(make, each=500, times=200):
    """Chunks of units that each take a stream of their own."""
    return [(b"".join(make(2 * i + 1) for i in range(n * each, (n + 1) * each)), each) for n in range(times)]


def with_fields(fields, then=lambda stream: b"", end=True):
    text = block(fields)
    return lambda stream: frame(HEADERS, 4 | end, stream, text) + then(stream)


def floods(scheme):
    start, empty = PREFACE + settings(), b""
    fixed, held = pseudo(scheme=scheme), pseudo(path=b"/held", scheme=scheme)
    posted, length = pseudo(b"POST", b"/held", scheme), [(b"content-length", b"1")]
    rst = lambda stream: frame(RST, 0, stream, struct.pack(">I", 8))
    window = lambda by: lambda stream: frame(WINDOW, 0, stream, struct.pack(">I", by))
    opened = start + headers(1, posted, False)
    # One large entry in the table, then as many references to it as a block holds.
    bomb = block(fixed) + field(b"x", b"y" * 3900, 0x40) + b"\xbe" * 12000
    small = block(fixed) + field(b"x", b"y" * 3900, 0x40) + b"\xbe" * 7
    return {
        "continuation without end": (
            start + frame(HEADERS, 1, 1, block(fixed)),
            repeated(frame(CONTINUATION, 0, 1, field(b"x-a", b"y" * 50))),
            100_000,
            True,
        ),
        "continuation empty": (start + frame(HEADERS, 1, 1, block(fixed)), repeated(frame(CONTINUATION, 0, 1)), 100_000, True),
        "continuation with end": (
            start,
            streams(
                lambda s: frame(HEADERS, 1, s, block(fixed)) + b"".join(frame(CONTINUATION, 4 * (i == 30), s, field(b"a", b"b")) for i in range(31)),
                50,
                40,
            ),
            2_000,
            True,
        ),
        "rapid reset": (start, streams(with_fields(fixed, rst)), 100_000, True),
        "rapid reset of what is held": (start, streams(with_fields(held, rst)), 20_000, True),
        "rapid reset in parts": (start, streams(lambda s: frame(HEADERS, 1, s, block(held)) + frame(CONTINUATION, 4, s) + rst(s)), 20_000, True),
        "made reset by window 0": (start, streams(with_fields(held, window(0))), 20_000, True),
        "made reset by overflow": (start, streams(with_fields(held, window(0x7FFFFFFF))), 20_000, True),
        "made reset by data behind the end": (start, streams(with_fields(held, lambda s: frame(DATA, 0, s, b"x"))), 20_000, True),
        "made reset by priority": (start, streams(with_fields(held, lambda s: frame(PRIORITY, 0, s, struct.pack(">IB", s, 9)))), 20_000, True),
        "made reset by length": (start, streams(with_fields(posted + length, lambda s: frame(DATA, 1, s, b"xxx"), False)), 20_000, True),
        "made reset by bad fields": (start, streams(with_fields(fixed + [(b"Upper", b"x")])), 20_000, True),
        "made reset by trailers": (
            start,
            streams(with_fields(posted, lambda s: frame(HEADERS, 5, s, block([(b":path", b"/")])), False)),
            20_000,
            True,
        ),
        "settings": (start, repeated(settings(window=65535)), 200_000, True),
        "settings, nothing taken": (start, repeated(settings(window=65535)), 200_000, False),
        "settings full": (start, repeated(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535) * 2000), 10), 500, True),
        "settings acks": (start, repeated(frame(SETTINGS, 1)), 200_000, True),
        "table size": (start, repeated(settings(table=0) + settings(table=4096)), 100_000, True),
        "ping": (start, repeated(frame(PING, 0, 0, b"12345678")), 200_000, True),
        "ping, nothing taken": (start, repeated(frame(PING, 0, 0, b"12345678")), 500_000, False),
        "empty data": (opened, repeated(frame(DATA, 0, 1)), 200_000, True),
        "padded data": (opened, repeated(frame(DATA, 8, 1, b"\xff" + bytes(255)), 100, 1000), 50_000, True),
        "window update": (start, repeated(frame(WINDOW, 0, 0, struct.pack(">I", 1))), 200_000, True),
        "window update of a stream": (opened, repeated(frame(WINDOW, 0, 1, struct.pack(">I", 1))), 200_000, True),
        "window update of a closed stream": (start + headers(1, fixed), repeated(frame(WINDOW, 0, 1, struct.pack(">I", 1))), 200_000, True),
        "priority": (start, repeated(frame(PRIORITY, 0, 3, struct.pack(">IB", 0, 9))), 200_000, True),
        "priority of many": (start, streams(lambda s: frame(PRIORITY, 0, s, struct.pack(">IB", 0, 9)), 1000), 200_000, True),
        "unknown frames": (start, repeated(frame(0x42, 0, 0, b"12345678")), 200_000, True),
        "resets of a closed stream": (start + headers(1, fixed), repeated(rst(1)), 200_000, True),
        "data of a closed stream": (start + headers(1, fixed), repeated(frame(DATA, 0, 1, b"x")), 100_000, True),
        "hpack bomb": (start, streams(lambda s: headers(s, bomb), 5, 40), 200, True),
        "hpack bomb within the list": (start, streams(lambda s: headers(s, small), 50, 100), 3_000, True),
        "hpack bomb within the list, held": (
            start,
            streams(lambda s: headers(s, block(held) + field(b"x", b"y" * 3900, 0x40) + b"\xbe" * 7), 50, 4),
            200,
            True,
        ),
        "fields by the thousand": (start, streams(lambda s: headers(s, block(fixed) + field(b"a", b"") * 900), 20, 50), 500, True),
        "goaway": (start, repeated(frame(GOAWAY, 0, 0, bytes(8))), 100_000, True),
        "streams above the limit": (start, streams(with_fields(held)), 20_000, True),
    }


def paced_floods(scheme):
    rst = lambda stream: frame(RST, 0, stream, struct.pack(">I", 8))
    fixed, held, posted = pseudo(scheme=scheme), pseudo(path=b"/held", scheme=scheme), pseudo(b"POST", b"/held", scheme)
    return {
        "rapid reset": with_fields(fixed, rst),
        "rapid reset of what is held": with_fields(held, rst),
        "made reset by window 0": with_fields(posted, lambda s: frame(WINDOW, 0, s, bytes(4)), False),
        "made reset by overflow": with_fields(posted, lambda s: frame(WINDOW, 0, s, struct.pack(">I", 0x7FFFFFFF)), False),
        "made reset by priority": with_fields(posted, lambda s: frame(PRIORITY, 0, s, struct.pack(">IB", s, 9)), False),
        "made reset by length": with_fields(posted + [(b"content-length", b"1")], lambda s: frame(DATA, 1, s, b"xxx"), False),
        "made reset by fields": with_fields(held + [(b"connection", b"close")]),
        "made reset by trailers": with_fields(posted, lambda s: frame(HEADERS, 5, s, block([(b"connection", b"x")])), False),
        "refusals": with_fields(pseudo(path=b"*", scheme=scheme)),
    }


def baseline(gateway, kind, requests=2000):
    """Seconds of the gateway's CPU that a byte and a request of an honest client cost."""
    with H2(gateway, kind) as client:
        began, sent = gateway.cpu(), 0
        for first in range(0, requests, 50):
            wanted = [2 * i + 1 for i in range(first, first + 50)]
            data = b"".join(headers(stream, pseudo(scheme=client.scheme)) for stream in wanted)
            sent += len(data)
            client.send(data)
            client.hear(lambda: all(stream in client.ended for stream in wanted))
        spent = gateway.cpu() - began
    return spent / sent, spent / requests


def run_floods(report, gateway, origin, kind):
    scheme = b"https" if kind == "tls" else b"http"
    base = baseline(gateway, kind)
    print(f"---- {kind}: an honest request costs {base[1] * 1e6:.0f} us, {base[0] * 1e6:.2f} us a byte")
    for name, (opening, chunks, units, reads) in floods(scheme).items():
        flood(report, gateway, origin, base, f"{kind} flood: {name}", attack, gateway, kind, opening, chunks, units, 4, reads)
    for name, make in paced_floods(scheme).items():
        flood(report, gateway, origin, base, f"{kind} flood in steps: {name}", paced, gateway, kind, make, 20_000, 10)
    # Each batch takes back what the one before it has asked for, once that was taken up.
    for name, path in [("rapid reset behind the accept", b"/fixed?"), ("rapid reset behind the accept of what is held", b"/held?")]:
        text, rst = block(pseudo(path=path, scheme=scheme)), struct.pack(">I", 8)
        make = lambda stream: (frame(RST, 0, stream - 30, rst) if stream > 30 else b"") + frame(HEADERS, 5, stream, text)
        flood(report, gateway, origin, base, f"{kind} flood in steps: {name}", paced, gateway, kind, make, 20_000, 10, 15)


class Peak(threading.Thread):
    """The most requests that were in flight at once."""

    def __init__(self, gateway):
        super().__init__(daemon=True)
        self.gateway, self.most, self.stop = gateway, 0, threading.Event()

    def run(self):
        while not self.stop.wait(0.05):
            with contextlib.suppress(OSError):
                self.most = max(self.most, self.gateway.status()[1])

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.join(10)


def flood(report, gateway, origin, base, label, *work):
    if not report.wants(label):
        return
    per_byte, per_request = base
    gateway.is_idle(15)
    gateway.forget_peak()
    before, cpu, lines, heads = gateway.memory(), gateway.cpu(), gateway.log().count("\n"), len(origin.heads)
    with Honest(gateway) as honest, Peak(gateway) as peak:
        began = time.monotonic()
        total, sent, connections, heard, ends = Beside(*work).result(30) or (0, 1, 0, {}, {"stuck": 1})
        took = time.monotonic() - began
        time.sleep(0.2)
    # What the honest client beside cost is not the flood's.
    spent = max(gateway.cpu() - cpu - len(honest.times) * per_request * 2, 0)
    growth, lines, heads = gateway.memory("VmHWM") - before, gateway.log().count("\n") - lines, len(origin.heads) - heads
    idle, cost = gateway.is_alive() and gateway.is_idle(12), spent / max(sent, 1) / per_byte
    calm = sum(count for key, count in heard.items() if key.startswith("GOAWAY"))
    # Resets that come behind their answers take nothing back.
    served = heard.get("HEADERS", 0) > total * 0.9
    wrong = [
        text
        for bad, text in [
            (growth > MEMORY_MIB, "memory"),
            (lines > LOG_LINES, "log"),
            (honest.quantile(0.95) > HONEST_MS, "honest client is slow"),
            (honest.errors, "honest client fails"),
            (peak.most > 250, f"{peak.most} in flight, of 100 a connection"),
            (not idle, f"not idle {gateway.is_alive() and gateway.status()}"),
            (cost > COST and spent > 0.5, "cpu"),
            ("in steps" in label and "reset" in label and not calm and not served, "goes on without end"),
        ]
        if bad
    ]
    report.case(
        label,
        not wrong,
        f"{' + '.join(wrong)}{': ' if wrong else ''}{total} units {sent / 1e6:.2f} MB on {connections} in {took:.1f} s; "
        f"cpu {spent:.2f} s, {spent / max(total, 1) * 1e6:.0f} us a unit, {cost:.2f} of baseline a byte; {growth:+.1f} MiB; {lines} log lines; "
        f"{peak.most} in flight, {heads} reached the service; {'ended' if calm else 'not ended'}: {heard} {ends}; {honest}",
    )


def malformed(scheme):
    """Fields (or frames), and the body, of requests that are none (RFC 9113, 8.2 and 8.3)."""
    base, extra = pseudo(path=b"/x", scheme=scheme), lambda name, value: (pseudo(path=b"/x", scheme=scheme) + [(name, value)], None)
    without = lambda name: ([pair for pair in base if pair[0] != name], None)
    post = lambda *fields: pseudo(b"POST", b"/x", scheme) + list(fields)
    path = lambda text: (pseudo(path=text, scheme=scheme), None)
    authority = lambda text: (pseudo(path=b"/x", scheme=scheme, authority=text), None)
    return {
        "uppercase name": extra(b"Upper", b"x"),
        "connection": extra(b"connection", b"close"),
        "keep-alive": extra(b"keep-alive", b"5"),
        "proxy-connection": extra(b"proxy-connection", b"x"),
        "transfer-encoding": extra(b"transfer-encoding", b"chunked"),
        "upgrade": extra(b"upgrade", b"websocket"),
        "te: gzip": extra(b"te", b"gzip"),
        "te: trailers, gzip": extra(b"te", b"trailers, gzip"),
        "pseudo behind fields": (base[:2] + [(b"x", b"y")] + base[2:], None),
        "doubled :path": (base + [(b":path", b"/y")], None),
        "doubled :method": (base[:1] + base, None),
        "doubled :authority": (base + [(b":authority", b"other")], None),
        "doubled :scheme": (base + [(b":scheme", scheme)], None),
        "unknown pseudo": (base + [(b":foo", b"x")], None),
        ":status": (base + [(b":status", b"200")], None),
        ":protocol": (base + [(b":protocol", b"websocket")], None),
        "no :path": without(b":path"),
        "no :method": without(b":method"),
        "no :scheme": without(b":scheme"),
        "no :authority and no host": without(b":authority"),
        "empty :path": path(b""),
        "path without slash": path(b"x"),
        "path *": path(b"*"),
        "absolute path": path(b"http://localhost/x"),
        "path with space": path(b"/x y"),
        "path with CRLF": path(b"/x HTTP/1.1\r\nEvil: 1\r\n\r\n"),
        "path with NUL": path(b"/x\0"),
        "path with tab": path(b"/x\ty"),
        "path with fragment": path(b"/x#y"),
        "path with 0x80": path(b"/x\x80"),
        "method with space": (pseudo(b"GET /evil", b"/x", scheme), None),
        "method with CRLF": (pseudo(b"GET\r\nX: y", b"/x", scheme), None),
        "empty method": (pseudo(b"", b"/x", scheme), None),
        "connect": (pseudo(b"CONNECT", None, None, b"localhost:1"), None),
        "empty :authority": authority(b""),
        "authority with user": authority(b"user@localhost"),
        "authority with space": authority(b"local host"),
        "authority with path": authority(b"localhost/x"),
        "authority with CRLF": authority(b"localhost\r\nEvil: 1"),
        "authority with comma": authority(b"a,b"),
        "authority with bad port": authority(b"localhost:99999"),
        "authority with NUL": authority(b"local\0host"),
        "host differs": extra(b"host", b"other"),
        "doubled host": (base[:3] + [(b"host", b"localhost"), (b"host", b"other")], None),
        "doubled host, equal": (base[:3] + [(b"host", b"localhost")] * 2, None),
        "host beside and doubled": (base + [(b"host", b"localhost")] * 2, None),
        "scheme ftp": (pseudo(path=b"/x", scheme=b"ftp"), None),
        "scheme with CRLF": (pseudo(path=b"/x", scheme=b"http\r\nX: y"), None),
        "value with CRLF": extra(b"x", b"a\r\nEvil: 1"),
        "value with LF": extra(b"x", b"a\nEvil: 1"),
        "value with CR": extra(b"x", b"a\rb"),
        "value with NUL": extra(b"x", b"a\0b"),
        "value with control": extra(b"x", b"a\x01b"),
        "value with DEL": extra(b"x", b"a\x7fb"),
        "value with blank before": extra(b"x", b" a"),
        "value with blank behind": extra(b"x", b"a "),
        "name with colon": extra(b"x:y", b"z"),
        "name with space": extra(b"x y", b"z"),
        "name with CRLF": extra(b"x\r\nevil", b"z"),
        "empty name": extra(b"", b"z"),
        "name with 0x80": extra(b"x\x80", b"z"),
        "name with NUL": extra(b"x\0", b"z"),
        "cookie with CRLF": extra(b"cookie", b"a=1\r\nEvil: 1"),
        "length too small": (post((b"content-length", b"3")), b"hello"),
        "length too large": (post((b"content-length", b"30")), b"hello"),
        "length without body": (post((b"content-length", b"3")), None),
        "doubled length": (post((b"content-length", b"5"), (b"content-length", b"5")), b"hello"),
        "length listed": (post((b"content-length", b"5, 5")), b"hello"),
        "length +5": (post((b"content-length", b"+5")), b"hello"),
        "length differing": (post((b"content-length", b"5"), (b"content-length", b"6")), b"hello"),
        "length -1": (post((b"content-length", b"-1")), b"hello"),
        "length empty": (post((b"content-length", b"")), b"hello"),
        "length huge": (post((b"content-length", b"9" * 30)), b"hello"),
    }


# Malformed by the letter, but what reaches the service is clean all the same.
MAY_PASS = {"value with blank before", "value with blank behind", "scheme ftp", "path with fragment", "authority with bad port"}


def run_cases(report, gateway, origin, kind):
    scheme = b"https" if kind == "tls" else b"http"

    def case(name, ok, seen, lax=False):
        report.case(f"{kind} {name}", ok, seen, lax)

    for name, (fields, body) in malformed(scheme).items():
        if not report.wants(f"{kind} malformed: {name}"):
            continue
        heads = len(origin.heads)
        with H2(gateway, kind) as client:
            outcome = client.request(1, fields, body)
            time.sleep(0.02)
            arrived = origin.heads[heads:]
            refused = not arrived and (outcome in (400, 404, 405, 421, 501, 505) or str(outcome).startswith(("RST", "GOAWAY")))
            # Nobody else of the connection suffers from one bad request, unless it was ended.
            after = client.goaway or client.request(3, pseudo(scheme=scheme))
            clean = all(b"evil:" not in head.lower() and body in (b"", b"hello") for head, body in arrived)
            case(
                f"malformed: {name}",
                refused and after in (200, "PROTOCOL_ERROR"),
                f"{outcome}, then {after}" + "".join(f"; reached the service as {head!r} with {body!r}" for head, body in arrived),
                name in MAY_PASS and clean and after == 200,
            )
    if not report.only or "rule" in report.only:
        rules(case, gateway, origin, kind, scheme)
    if not report.only or "stall" in report.only:
        stalls(case, gateway, origin, kind, scheme)


def segments(client):
    """How many segments with data have come (`tcpi_data_segs_in` of struct tcp_info)."""
    return struct.unpack_from("I", client.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), 152)[0]


def rules(case, gateway, origin, kind, scheme):
    """What is no flood, but has an answer that is prescribed."""
    fixed, echo, posted = pseudo(scheme=scheme), pseudo(path=b"/x", scheme=scheme), pseudo(b"POST", b"/x", scheme)
    with H2(gateway, kind) as client:
        client.request(1, fixed)
        before = segments(client)
        client.send(b"".join(headers(2 * i + 3, fixed) for i in range(50)))
        client.hear(lambda: len(client.ended) > 50, 2)
        came = segments(client) - before
        case("rule: answers that are ready together leave together", len(client.ended) == 51 and came <= 10, f"{len(client.ended) - 1} answers in {came} segments")
    with H2(gateway, kind) as client:
        client.send(b"".join(headers(2 * i + 1, pseudo(path=b"/held/%d" % i, scheme=scheme)) for i in range(150)))
        client.hear(lambda: len(client.resets) >= 50, 2)
        refused = collections.Counter(client.resets.values())
        case("rule: streams above the limit are refused", refused == {"REFUSED_STREAM": 50} and not client.goaway, f"{dict(refused)} {client.goaway}")
        time.sleep(0.5)
        client.send(b"".join(frame(RST, 0, 2 * i + 1, struct.pack(">I", 8)) for i in range(100)))
        after = client.request(401, fixed)
        case("rule: and served when there is room again", after == 200, f"{after} {client.goaway}")
    time.sleep(0.5)
    for name, extra, want in [
        ("a field of 40 KiB", [(b"x", b"y" * 40_000)], (431,)),
        ("a field of 1 MiB", [(b"x", b"y" * (1 << 20))], (431,)),
        ("200 fields", [(b"x-%d" % i, b"y") for i in range(200)], (431,)),
        ("5,000 fields", [(b"x-%d" % i, b"y") for i in range(5000)], (431,)),
        ("200 cookies", [(b"cookie", b"a=1")] * 200, (431, 200)),
        ("a path of 9,000", None, (414,)),
        ("a path of 60,000", None, (414,)),
        ("20 KiB of fields", [(b"x", b"y" * 20_000)], (200,)),
    ]:
        with H2(gateway, kind) as client:
            fields = echo + extra if extra else pseudo(path=b"/" + b"x" * int(name.split()[-1].replace(",", "")), scheme=scheme)
            heads, outcome = len(origin.heads), client.request(1, fields)
            ok = outcome in want or (200 not in want and str(outcome).startswith(("RST", "GOAWAY", "closed", "Connection")))
            case(
                f"rule: {name}",
                ok and (200 in want or heads == len(origin.heads)),
                f"{outcome} {client.bodies[1][:120]!r}; then {client.goaway or client.request(3, fixed)}",
            )
    # Trailers of a request.
    for name, trailers in [
        ("pseudo", [(b":path", b"/evil")]),
        ("forbidden", [(b"connection", b"close")]),
        ("uppercase", [(b"Upper", b"x")]),
        ("content-length", [(b"content-length", b"9")]),
        ("transfer-encoding", [(b"transfer-encoding", b"chunked")]),
        ("legal", [(b"x-sum", b"7")]),
        ("CRLF", [(b"x", b"a\r\nEvil: 1")]),
    ]:
        with H2(gateway, kind) as client:
            heads = len(origin.heads)
            client.send(headers(1, posted, False) + frame(DATA, 0, 1, b"hello"))
            client.send(headers(1, trailers))
            client.hear(lambda: client.is_over(1))
            outcome, arrived = client.outcome(1), origin.heads[heads:]
            bad = any(b"evil" in (head + body).lower() for head, body in arrived)
            ok = not bad and (outcome == 200 if name == "legal" else outcome != 200 or name == "content-length")
            case(f"rule: trailers, {name}", ok, f"{outcome} {client.goaway}; {len(arrived)} reached the service", name == "pseudo" and not bad)
    with H2(gateway, kind) as client:
        heads = len(origin.heads)
        client.send(headers(1, posted, False) + frame(DATA, 0, 1, b"hello") + headers(1, [(b"x-sum", b"7")], False))
        client.hear(lambda: client.is_over(1), 4)
        case("rule: trailers without END_STREAM", client.outcome(1) not in (200, "nothing"), f"{client.outcome(1)} {client.goaway}")
    with H2(gateway, kind) as client:
        outcome = client.request(1, echo + [(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"cookie", b"c=3")])
        line = re.findall(rb"(?i)cookie: .*", client.bodies[1])
        case(
            "rule: cookies are joined",
            (outcome, line) == (200, [b"cookie: a=1; b=2; c=3\r"]) or line == [b"Cookie: a=1; b=2; c=3\r"],
            f"{outcome} {line}",
        )
    with H2(gateway, kind) as client:
        outcome = client.request(1, echo[:3] + [(b"host", b"localhost")])
        case(
            "rule: host instead of :authority",
            outcome == 200 and client.bodies[1].lower().count(b"\r\nhost: localhost\r\n") == 1,
            f"{outcome} {client.bodies[1][:60]!r}",
        )
    with H2(gateway, kind) as client:
        outcome = client.request(1, echo + [(b"host", b"localhost")])
        case(
            "rule: host that equals :authority",
            outcome == 200 and client.bodies[1].lower().count(b"\r\nhost: localhost\r\n") == 1,
            f"{outcome} {client.bodies[1][:60]!r}",
        )
    # Errors of the connection: GOAWAY with the code.
    for name, data, want in [
        ("DATA on stream 0", frame(DATA, 0, 0, b"x"), {"PROTOCOL_ERROR"}),
        ("HEADERS on stream 0", frame(HEADERS, 5, 0, block(fixed)), {"PROTOCOL_ERROR"}),
        ("HEADERS on an even stream", frame(HEADERS, 5, 2, block(fixed)), {"PROTOCOL_ERROR"}),
        ("DATA on an idle stream", frame(DATA, 0, 5, b"x"), {"PROTOCOL_ERROR", "STREAM_CLOSED"}),
        ("RST of an idle stream", frame(RST, 0, 5, bytes(4)), {"PROTOCOL_ERROR"}),
        ("WINDOW_UPDATE of an idle stream", frame(WINDOW, 0, 5, struct.pack(">I", 1)), {"PROTOCOL_ERROR"}),
        ("window 0 of the connection", frame(WINDOW, 0, 0, bytes(4)), {"PROTOCOL_ERROR"}),
        ("window overflow of the connection", frame(WINDOW, 0, 0, struct.pack(">I", 0x7FFFFFFF)), {"FLOW_CONTROL"}),
        ("a stream that goes back", headers(5, fixed) + headers(3, fixed), {"PROTOCOL_ERROR", "STREAM_CLOSED"}),
        ("PUSH_PROMISE", frame(PUSH, 4, 1, struct.pack(">I", 2) + block(fixed)), {"PROTOCOL_ERROR"}),
        ("PING of 7 bytes", frame(PING, 0, 0, b"1234567"), {"FRAME_SIZE"}),
        ("PING on a stream", frame(PING, 0, 1, b"12345678"), {"PROTOCOL_ERROR"}),
        ("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, b"12345"), {"FRAME_SIZE"}),
        ("SETTINGS ack with a payload", frame(SETTINGS, 1, 0, bytes(6)), {"FRAME_SIZE"}),
        ("SETTINGS push 2", settings(push=2), {"PROTOCOL_ERROR"}),
        ("SETTINGS window 2^31", settings(window=1 << 31), {"FLOW_CONTROL"}),
        ("SETTINGS frame 1", settings(frame=1), {"PROTOCOL_ERROR"}),
        ("a frame of 16,385", frame(DATA, 0, 1, bytes(16385)), {"FRAME_SIZE"}),
        ("CONTINUATION alone", frame(CONTINUATION, 4, 1, block(fixed)), {"PROTOCOL_ERROR"}),
        ("CONTINUATION of another", frame(HEADERS, 1, 1, block(fixed)) + frame(CONTINUATION, 4, 3), {"PROTOCOL_ERROR"}),
        ("PING between", frame(HEADERS, 1, 1, block(fixed)) + frame(PING, 0, 0, bytes(8)), {"PROTOCOL_ERROR"}),
        ("HPACK garbage", frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"), {"COMPRESSION"}),
        ("HPACK index 0", frame(HEADERS, 5, 1, b"\x80"), {"COMPRESSION"}),
        ("HPACK index beyond", frame(HEADERS, 5, 1, b"\xff\x80\x7f"), {"COMPRESSION"}),
        ("HPACK table of 1 GiB", frame(HEADERS, 5, 1, integer(1 << 30, 5, 0x20) + block(fixed)), {"COMPRESSION"}),
        ("HPACK block cut", frame(HEADERS, 5, 1, block(fixed)[:-3]), {"COMPRESSION"}),
        ("padding longer than the frame", frame(DATA, 8, 1, b"\xff"), {"PROTOCOL_ERROR"}),
        (
            "DATA beyond the window",
            # More than the sockets of a service that reads nothing take in: what it reads is given back to the window.
            headers(1, pseudo(b"POST", b"/unread", scheme), False) + frame(DATA, 0, 1, bytes(16384)) * 1500,
            {"FLOW_CONTROL", "RST FLOW_CONTROL"},
        ),
        ("no SETTINGS first", None, {"PROTOCOL_ERROR"}),
    ]:
        opening = PREFACE + frame(PING, 0, 0, bytes(8)) if data is None else None
        with H2(gateway, kind, opening) as client:
            sent = data or b""
            # Much is sent bit by bit, as far as anybody listens: the answer to a flood could be lost with the connection.
            for at in range(0, len(sent), 1 << 17):
                if not client.send(sent[at : at + (1 << 17)]) or client.goaway or client.resets:
                    break
                if at:
                    client.hear(lambda: client.goaway or client.resets, 0.02)
            client.hear(lambda: client.goaway or "RST " + str(client.resets.get(1)) in want, 3)
            got = client.goaway or "RST " + str(client.resets.get(1))
            client.hear(lambda: False, 1) if client.goaway else None
            # A general code instead of the special one is a matter of taste; no SETTINGS at the start is let pass by h2.
            case(f"rule: {name}", got in want or client.goaway == "PROTOCOL_ERROR", f"{got}, then {client.end or 'open'}", data is None)
    if kind == "h2c":
        with H2(gateway, kind, PREFACE[:20] + b"XX\r\n") as client:
            client.hear(seconds=3)
            case("rule: a bad preface", client.end and b"HTTP/2" not in client.buffer, f"{client.end} {client.buffer[:40]!r}")


def dripping(gateway, kind, data, pause, seconds, opening=None):
    """Sends a byte at a time; says after how long it was ended, and how."""
    with H2(gateway, kind, opening) as client:
        client.hear(lambda: client.acks, 0.3 if opening != b"" else 0)
        began = time.monotonic()
        for i in range(len(data)):
            if time.monotonic() - began > seconds or not client.send(data[i : i + 1]):
                break
            client.hear(lambda: client.goaway or client.resets or client.ended, pause)
            if client.end or client.goaway or client.resets or client.ended:
                break
        return time.monotonic() - began, client.end or client.goaway or client.outcome(1)


def stalls(case, gateway, origin, kind, scheme):
    """Clients that take or give nothing: ended by their deadline (2 s, 3 s at rest), with some grace for coarse timers."""
    fixed, large, posted, late = pseudo(scheme=scheme), pseudo(path=b"/large", scheme=scheme), pseudo(b"POST", b"/x", scheme), 9

    def ended(name, opening, frames, small=False, mind=None):
        gateway.forget_peak()
        before = gateway.memory()
        with H2(gateway, kind, opening, small=small) as client:
            client.hear(lambda: client.acks, 0.3)
            client.send(frames)
            began = time.monotonic()
            if mind:
                mind(client)
            connections = gateway.is_idle(late)
            took, growth = time.monotonic() - began, gateway.memory("VmHWM") - before
            client.hear(seconds=0.2)
            case(
                f"stall: {name}",
                connections and growth < MEMORY_MIB,
                f"{'ended after %.1f s' % took if connections else 'still there: %s' % (gateway.status(),)}, {growth:+.1f} MiB; "
                f"{client.end} {client.goaway} {dict(collections.Counter(client.resets.values()))} {dict(collections.Counter(client.statuses.values()))}",
            )
        gateway.is_idle(15)

    start = PREFACE + settings()
    ended("nothing after the preface", PREFACE, b"")
    ended("nothing after SETTINGS", start, b"")
    ended("half HEADERS", start, headers(1, fixed)[:-5])
    ended("HEADERS without END_HEADERS", start, frame(HEADERS, 1, 1, block(fixed)))
    ended("half a frame's head", start, b"\0\0")
    ended("window 0, one large answer", PREFACE + settings(window=0), headers(1, large))
    ended("window 0, 100 large answers", PREFACE + settings(window=0), b"".join(headers(2 * i + 1, large) for i in range(100)))
    ended("window 0, 100 small answers", PREFACE + settings(window=0), b"".join(headers(2 * i + 1, fixed) for i in range(100)))
    ended(
        "window of the connection used up, 100 large answers",
        PREFACE + settings(window=(1 << 31) - 1),
        b"".join(headers(2 * i + 1, large) for i in range(100)),
    )
    ended(
        "large window, nothing read",
        PREFACE + settings(window=(1 << 31) - 1) + frame(WINDOW, 0, 0, struct.pack(">I", 0x7FFF0000)),
        b"".join(headers(2 * i + 1, large) for i in range(100)),
        small=True,
    )
    ended("100 uploads never sent", start, b"".join(headers(2 * i + 1, posted, False) for i in range(100)))
    ended("100 uploads never ended", start, b"".join(headers(2 * i + 1, posted, False) + frame(DATA, 0, 2 * i + 1, b"x") for i in range(100)))

    def dribble(unit, seconds):
        def mind(client):
            due = time.monotonic() + seconds
            while time.monotonic() < due and client.send(unit):
                client.hear(seconds=0.3)
                if client.end:
                    break

        return mind

    tiny = PREFACE + settings(window=1)
    ended("a window of a byte every 0.3 s for 8 s, then nothing", tiny, headers(1, large), mind=dribble(frame(WINDOW, 0, 1, struct.pack(">I", 1)), 8))
    for name, opening, data, end in [
        ("preface dripped", b"", PREFACE, 4.5),
        ("HEADERS dripped", None, headers(1, pseudo(path=b"/fixed?" + b"x" * 100, scheme=scheme)), 6),
        (
            "HEADERS dripped in CONTINUATIONs",
            None,
            frame(HEADERS, 1, 1, block(fixed)) + b"".join(frame(CONTINUATION, 0, 1, field(b"x", b"y")) for _ in range(40)),
            6,
        ),
    ]:
        took, how = dripping(gateway, kind, data, 0.25, 12, opening)
        case(f"stall: {name}", took < end, f"after {took:.1f} s: {how}")
    took, how = dripping(gateway, kind, frame(DATA, 0, 1, b"x" * 200), 0.3, 12, start + headers(1, posted, False))
    case("stall: a DATA frame dripped (bytes within a frame)", took < 12, f"after {took:.1f} s: {how}")
    with H2(gateway, kind) as client:
        client.send(headers(1, posted, False))
        began = time.monotonic()
        while time.monotonic() - began < 12 and not client.is_over(1) and client.send(frame(DATA, 0, 1, b"x")):
            client.hear(lambda: client.is_over(1), 0.5)
        case("stall: a body of a byte every 0.5 s (minimum rate)", client.is_over(1), f"after {time.monotonic() - began:.1f} s: {client.outcome(1)}")
    gateway.is_idle(15)
    with H2(gateway, kind) as client:
        began = time.monotonic()
        while time.monotonic() - began < 12 and client.end is None and not client.goaway and client.send(frame(PING, 0, 0, bytes(8))):
            client.hear(lambda: client.end or client.goaway, 0.5)
        case(
            "stall: no request, a PING every 0.5 s",
            client.end or client.goaway,
            f"after {time.monotonic() - began:.1f} s: {client.end} {client.goaway}, {client.pongs} answered",
        )
    case("stall: nothing is left", gateway.is_idle(15), gateway.status())


def main():
    report = Report()
    for kind in ("h2c", "tls"):
        # A service of its own for the floods: what they asked of it may come late.
        for part in (run_cases, run_floods):
            if part is run_floods and report.only and "flood" not in report.only:
                continue
            origin = Origin(script)
            with Gateway(YAML.replace("ORIGIN", origin.address)) as gateway:
                part(report, gateway, origin, kind)
                idle = gateway.is_alive() and gateway.is_idle(15)
                report.case(
                    f"{kind} {part.__name__}: alive and idle at the end",
                    idle,
                    f"{gateway.memory():.0f} MiB, {gateway.descriptors()} descriptors, {gateway.log().count(chr(10))} log lines",
                )
    report.end()


if __name__ == "__main__":
    main()
