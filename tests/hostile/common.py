"""What the attacks share: the gateway, a service, raw HTTP/1 and HTTP/2 clients, and one line a case."""

import collections, contextlib, http.client, json, multiprocessing, os, pathlib, re, select, signal, socket, ssl, struct
import subprocess, sys, tempfile, threading, time
import hpack

context = multiprocessing.get_context("fork")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
CODES = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION",
    "CONNECT",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE",
    "HTTP_1_1_REQUIRED",
]


class Report:
    """One line a case; the exit code at the end."""

    def __init__(self):
        self.passed = self.failed = self.lax = 0
        self.only = sys.argv[2] if len(sys.argv) > 2 else ""

    def wants(self, name):
        return self.only in name

    def case(self, name, ok, seen="", lax=False):
        """`lax`: known, harmless, and not to be mended from outside the libraries; it is shown and does not fail."""
        word = "PASS" if ok else "LAX" if lax else "FAIL"
        self.passed, self.failed, self.lax = self.passed + (word == "PASS"), self.failed + (word == "FAIL"), self.lax + (word == "LAX")
        print(f"{word} {name}: {seen}", flush=True)

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed" + (f", {self.lax} skipped" if self.lax else ""))
        sys.exit(bool(self.failed))


def certificate(folder):
    """A certificate for localhost, and its key."""
    cert, key = pathlib.Path(folder) / "cert.pem", pathlib.Path(folder) / "key.pem"
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command = ["openssl", "req", "-x509", *curve, "-nodes", *name, "-days", "2", "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


class Gateway:
    """A process of its own, in a temporary folder. `DIR` in the YAML becomes that folder; listeners bind to port 0 and have names."""

    def __init__(self, yaml, nofile=None):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.temporary.name)
        if "DIR/cert.pem" in yaml:
            certificate(self.folder)
        if "access_log" not in yaml:
            yaml += "\naccess_log: { path: DIR/access.log }\n"
        yaml = (yaml + "\nadmin: { bind: 127.0.0.1:0 }\n").replace("DIR", str(self.folder))
        (self.folder / "frontdesk.yaml").write_text(yaml)
        limit = ["prlimit", f"--nofile={nofile}"] if nofile else []
        with open(self.folder / "error.log", "wb") as log:
            self.process = subprocess.Popen(
                [*limit, os.path.abspath(sys.argv[1]), "run", "-c", self.folder / "frontdesk.yaml"], stdout=subprocess.DEVNULL, stderr=log
            )
        if not eventually(lambda: "ready: " in self.log() or self.process.poll() is not None, 30) or not self.is_alive():
            raise SystemExit("the gateway did not start: " + self.log())
        self.ports = {name: int(port) for port, name in re.findall(r"listening on 127.0.0.1:(\d+) \((\S+?)\)", self.log())}
        self.admin = int(re.search(r"admin on 127.0.0.1:(\d+)", self.log())[1])

    def log(self):
        return (self.folder / "error.log").read_text(errors="replace")

    def access(self):
        return [json.loads(line) for line in (self.folder / "access.log").read_text().splitlines()]

    def is_alive(self):
        return self.process.poll() is None

    def cpu(self):
        """Seconds, user and system."""
        return sum(map(int, pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")

    def memory(self, kind="VmRSS"):
        """MiB."""
        return int(re.search(rf"{kind}:\s*(\d+)", pathlib.Path(f"/proc/{self.process.pid}/status").read_text())[1]) / 1024

    def forget_peak(self):
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def ask(self, path="/status"):
        client = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
        with contextlib.closing(client):
            client.request("GET", path, headers={"Host": "localhost"})
            return client.getresponse().read()

    def status(self):
        status = json.loads(self.ask())
        busy = sum(endpoint["in_flight"] for service in status["services"] for endpoint in service["endpoints"])
        return status["connections"], status["in_flight"], busy

    def is_idle(self, seconds=10):
        def look():
            with contextlib.suppress(OSError):
                return self.status() == (0, 0, 0)

        return eventually(look, seconds)

    def connect(self, name, alpn=(), timeout=10, small=False):
        """A socket to the listener of that name; the one named `tls` speaks it."""
        sock = socket.socket()
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(timeout)
        sock.connect(("127.0.0.1", self.ports[name]))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if name != "tls":
            return sock
        tls = ssl.create_default_context(cafile=self.folder / "cert.pem")
        if alpn:
            tls.set_alpn_protocols(alpn)
        return tls.wrap_socket(sock, server_hostname="localhost")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.temporary.cleanup()

    __enter__ = lambda self: self
    __exit__ = lambda self, *_: self.close()


def eventually(look, seconds=10, pause=0.05):
    due = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        if time.monotonic() > due:
            return False
        time.sleep(pause)


class Beside:
    """Runs work in a process of its own, so that it does not stand in the way of what is measured here."""

    def __init__(self, work, *arguments):
        self.ours, theirs = context.Pipe()

        def run():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            theirs.send(work(*arguments))

        self.process = context.Process(target=run, daemon=True)
        self.process.start()
        theirs.close()

    def result(self, seconds):
        """What the work returned; None when it did not end in time, and then it is ended."""
        try:
            return self.ours.recv() if self.ours.poll(seconds) else None
        except EOFError:
            return None
        finally:
            self.process.terminate()
            self.process.join()


class Origin:
    """A service in threads of this process: `script(sock, head)` answers each request, and says whether the connection goes on."""

    def __init__(self, script):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.script, self.heads, self.connections = script, [], 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock = self.listener.accept()[0]
                self.connections += 1
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError, ValueError), contextlib.closing(sock):
            stream = sock.makefile("rb")
            while request := read_request(stream):
                self.heads.append(request)
                if not self.script(sock, request[0]):
                    return

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def read_request(stream):
    """Head and body, read strictly; None at the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline(1 << 20)
        if not line:
            return None
        if not line.endswith(b"\r\n"):
            raise ValueError("a bare line feed")
        head += line
    fields = [line.split(b":", 1) for line in head.lower().split(b"\r\n")[1:-2]]
    lengths = [value.strip() for name, value in fields if name == b"content-length"]
    codings = [value.strip() for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise ValueError("framed twice")
    body = stream.read(int(lengths[0])) if lengths else b""
    if lengths and len(body) < int(lengths[0]):
        return None
    while codings:
        size = int(stream.readline(), 16)
        body += stream.read(size)
        if stream.readline() != b"\r\n":
            raise ValueError("a chunk without its end")
        if not size:
            break
    return head, body


def ok(body=b"ok", extra=b""):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), extra, body)


def get(path=b"/", extra=b"", method=b"GET"):
    return b"%s %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (method, path, extra)


def read_answer(stream, method="GET"):
    """Status, fields and body of the next final answer; raises when it is not well formed."""
    while True:
        answer = http.client.HTTPResponse(Shared(stream), method=method)
        answer.begin()
        if answer.status in (101, *range(200, 1000)):
            break
    if answer.status in (204, 304) or method == "HEAD":
        answer.chunked = False
    fields = {name.lower(): value for name, value in answer.getheaders()}
    # Framed once and plainly, in our own version of HTTP: a client must not have to guess.
    framing = [(name.lower(), value) for name, value in answer.getheaders() if name.lower() in ("content-length", "transfer-encoding")]
    if len(framing) > 1 or any(not value.isdigit() and value != "chunked" for _, value in framing) or answer.version != 11:
        raise Misframed(f"HTTP/{answer.version / 10} {framing}")
    return answer.status, fields, answer.read()


class Misframed(Exception):
    pass


class Shared:
    """A socket for `HTTPResponse` that goes on with the buffer that the last answer left."""

    def __init__(self, stream):
        self.stream = stream

    def makefile(self, _):
        stream = self.stream

        class Kept:
            close = flush = lambda self: None
            closed = False
            __getattr__ = lambda self, name: getattr(stream, name)

        return Kept()


class Honest:
    """An honest client beside: asks on a kept and on new connections by turns, and writes down how long each answer took."""

    def __init__(self, gateway, path=b"/fixed", listener="plain", pause=0.02):
        self.gateway, self.path, self.listener, self.pause = gateway, path, listener, pause
        self.times, self.errors, self.stop = [], [], threading.Event()

    def run(self):
        while not self.stop.wait(self.pause):
            began = time.monotonic()
            try:
                with contextlib.closing(self.gateway.connect(self.listener)) as sock, sock.makefile("rb") as stream:
                    sock.sendall(get(self.path, b"Connection: close\r\n"))
                    status = read_answer(stream)[0]
                    if status != 200:
                        self.errors.append(status)
            except (OSError, http.client.HTTPException, Misframed) as e:
                self.errors.append(type(e).__name__)
            self.times.append((time.monotonic() - began) * 1000)

    def __enter__(self):
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(15)

    def quantile(self, share):
        return sorted(self.times)[int(len(self.times) * share)] if self.times else float("inf")

    def __str__(self):
        errors = f", errors {collections.Counter(self.errors)}" if self.errors else ""
        return (
            f"honest median {self.quantile(.5):.0f} p95 {self.quantile(.95):.0f} max {max(self.times, default=0):.0f} ms of {len(self.times)}{errors}"
        )


# ---- HTTP/2, frame by frame


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, bits, first=0):
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = [first | most], value - most
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(name, value, first=0):
    """A literal; `first` 0x40 puts it into the table."""
    return bytes([first]) + integer(len(name), 7) + name + integer(len(value), 7) + value


def block(fields):
    return b"".join(field(name, value) for name, value in fields)


def pseudo(method=b"GET", path=b"/fixed", scheme=b"http", authority=b"localhost"):
    pairs = [(b":method", method), (b":scheme", scheme), (b":path", path), (b":authority", authority)]
    return [pair for pair in pairs if pair[1] is not None]


def headers(stream, fields, end=True):
    """A request's HEADERS and as many CONTINUATIONs as it takes."""
    text = fields if isinstance(fields, bytes) else block(fields)
    parts = [text[i : i + 16384] for i in range(0, len(text), 16384)] or [b""]
    last = len(parts) - 1
    return b"".join(frame(CONTINUATION if i else HEADERS, (end if not i else 0) | 4 * (i == last), stream, part) for i, part in enumerate(parts))


def settings(**values):
    ids = dict(table=1, push=2, streams=3, window=4, frame=5, list=6)
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", ids[name], value) for name, value in values.items()))


def code_of(number):
    return CODES[number] if number < len(CODES) else hex(number)


class H2:
    """A client that says what it is told to and writes down what it hears."""

    def __init__(self, gateway, kind, opening=None, timeout=10, small=False):
        self.sock = gateway.connect("tls" if kind == "tls" else "plain", ["h2"], timeout, small)
        self.scheme = b"https" if kind == "tls" else b"http"
        self.buffer, self.decoder = b"", hpack.Decoder(max_header_list_size=1 << 24)
        self.statuses, self.bodies, self.resets, self.trailers = {}, collections.defaultdict(bytes), {}, {}
        self.fields, self.ended, self.block, self.block_flags = {}, set(), b"", 0
        self.goaway = self.end = None
        self.acks = self.pongs = 0
        self.send(PREFACE + settings() if opening is None else opening)

    def send(self, data):
        try:
            self.sock.sendall(data)
            return True
        except OSError:
            return False

    def hear(self, until=lambda: False, seconds=5):
        """Listens until this holds, the end, or so long; says whether it holds."""
        due = time.monotonic() + seconds
        while not until() and self.end is None:
            self.sock.settimeout(max(due - time.monotonic(), 0.001))
            try:
                got = self.sock.recv(65536)
            except (TimeoutError, ssl.SSLWantReadError):
                break
            except OSError as e:
                got, self.end = b"", type(e).__name__
            if not got:
                self.end = self.end or "closed"
            self.buffer += got
            while len(self.buffer) >= 9 and len(self.buffer) >= 9 + (size := int.from_bytes(self.buffer[:3], "big")):
                kind, flags, stream = self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9], "big")
                payload, self.buffer = self.buffer[9 : 9 + size], self.buffer[9 + size :]
                self.take(kind, flags, stream, payload)
        self.sock.settimeout(10)
        return bool(until())

    def take(self, kind, flags, stream, payload):
        if kind in (HEADERS, CONTINUATION):
            self.block += payload
            self.block_flags |= flags
        if kind in (HEADERS, CONTINUATION) and flags & 4:
            payload, flags, kind = self.block, self.block_flags, HEADERS
            self.block, self.block_flags = b"", 0
            fields = {name: value for name, value in self.decoder.decode(payload)}
            where = self.trailers if stream in self.statuses and ":status" not in fields else self.fields
            where[stream] = fields
            if ":status" in fields:
                self.statuses[stream] = int(fields[":status"])
        elif kind == DATA:
            self.bodies[stream] += payload
        elif kind == RST:
            self.resets[stream] = code_of(int.from_bytes(payload, "big"))
        elif kind == GOAWAY:
            self.goaway = code_of(int.from_bytes(payload[4:8], "big"))
        elif kind == SETTINGS and flags & 1:
            self.acks += 1
        elif kind == SETTINGS:
            self.send(frame(SETTINGS, 1))
        elif kind == PING:
            self.pongs += flags & 1
        if kind in (HEADERS, DATA) and flags & 1 and not self.block:
            self.ended.add(stream)

    def is_over(self, stream):
        return stream in self.ended or stream in self.resets or self.goaway not in (None, "NO_ERROR")

    def request(self, stream, fields, body=None, seconds=5):
        """Sends a request and waits for its end; says in words what came."""
        self.send(headers(stream, fields, body is None) + (b"" if body is None else frame(DATA, 1, stream, body)))
        self.hear(lambda: self.is_over(stream), seconds)
        return self.outcome(stream)

    def outcome(self, stream):
        if stream in self.resets:
            return "RST " + self.resets[stream]
        if stream in self.ended:
            return self.statuses.get(stream)
        if self.goaway not in (None, "NO_ERROR"):
            return "GOAWAY " + self.goaway
        return self.end or "nothing"

    def close(self):
        self.sock.close()

    __enter__ = lambda self: self
    __exit__ = lambda self, *_: self.close()


class Pump:
    """Writes and reads at once on one socket, as fast as it goes."""

    def __init__(self, sock, reads=True):
        sock.setblocking(False)
        self.sock, self.reads, self.received, self.sent, self.end = sock, reads, bytearray(), 0, None

    def go(self, data, due):
        """Until all is sent, the other side has ended or time is up; says whether all was sent."""
        view = memoryview(data)
        while len(view) and self.end is None and time.monotonic() < due:
            readable, writable, _ = select.select([self.sock] if self.reads else [], [self.sock], [], max(due - time.monotonic(), 0))
            try:
                if readable:
                    self.read()
                if writable and self.end is None:
                    n = self.sock.send(view[:65536])
                    view, self.sent = view[n:], self.sent + n
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                time.sleep(0.0005)
            except OSError as e:
                self.end = type(e).__name__
        return not len(view)

    def read(self):
        got = self.sock.recv(262144)
        if not got:
            self.end = "closed"
        self.received += got

    def rest(self, seconds):
        due = time.monotonic() + seconds
        while self.end is None and time.monotonic() < due:
            try:
                if select.select([self.sock], [], [], 0.05)[0]:
                    self.read()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                pass
            except OSError as e:
                self.end = type(e).__name__

    def heard(self):
        """How many frames of each kind came, and with which codes."""
        at, seen = 0, collections.Counter()
        while at + 9 <= len(self.received):
            size, kind = int.from_bytes(self.received[at : at + 3], "big"), self.received[at + 3]
            payload = bytes(self.received[at + 9 : at + 9 + size])
            if kind == RST:
                seen["RST " + code_of(int.from_bytes(payload, "big"))] += 1
            elif kind == GOAWAY:
                seen["GOAWAY " + code_of(int.from_bytes(payload[4:8], "big"))] += 1
            elif kind == HEADERS:
                seen["HEADERS"] += 1
            at += 9 + size
        return seen
