"""What the *_real.py and http2_upstream.py scripts share: a gateway, certificates, an HTTP/2 server of Python's h2, cases."""

import contextlib
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request

CASES = []


def case(f):
    """A case: answers what was seen, or fails by an exception."""
    CASES.append(f)
    return f


def known(why):
    """A case that fails, as docs/security.md says: it is shown, and does not count."""

    def mark(f):
        f.known = why
        return f

    return mark


def main():
    """Runs all cases, or those whose names have one of the words behind the binary."""
    words, failed, lax = sys.argv[2:], [], 0
    chosen = [f for f in CASES if not words or any(word in f.__name__ for word in words)]
    for f in chosen:
        started = time.monotonic()
        try:
            seen, verdict = f(), "PASS"
        except Exception as e:  # noqa: BLE001: whatever it is, the case has failed
            why = getattr(f, "known", "")
            seen, verdict = f"{why}: {type(e).__name__}: {e}" if why else f"{type(e).__name__}: {e}", "LAX" if why else "FAIL"
            lax += bool(why)
            failed += [] if why else [f.__name__]
            if os.environ.get("TRACE"):
                traceback.print_exc()
        text = " ".join(str(seen if seen is not None else "").split())[:400]
        print(f"{verdict} {f.__name__} ({time.monotonic() - started:.1f} s) {text}", flush=True)
    print(f"{len(chosen) - len(failed) - lax} passed, {len(failed)} failed" + (f", {lax} known" if lax else ""))
    sys.stdout.flush()
    FOLDER.cleanup()
    os._exit(1 if failed else 0)  # threads of servers that wait for nothing do not hold it up


def same(got, expected, what=""):
    assert got == expected, f"{what} got {got!r}, expected {expected!r}"


def until(what, f, patience=10.0):
    due = time.monotonic() + patience
    while time.monotonic() < due:
        if value := f():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited {patience} s in vain for {what}")


GIVEN = set()


def free_port():
    """A port that was not given to anybody here before."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in GIVEN:
            GIVEN.add(port)
            return port


FOLDER = tempfile.TemporaryDirectory(prefix="frontdesk-hostile-")
CA, CERT, KEY = (f"{FOLDER.name}/{name}" for name in ("ca.pem", "cert.pem", "key.pem"))


def certificates():
    """An authority, and a certificate for localhost by it."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    for command in (
        ["-x509", *curve, "-keyout", f"{FOLDER.name}/ca.key", "-out", CA, "-subj", "/CN=authority"],
        [
            *curve,
            "-x509",
            "-CA",
            CA,
            "-CAkey",
            f"{FOLDER.name}/ca.key",
            "-keyout",
            KEY,
            "-out",
            CERT,
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ],
    ):
        subprocess.run(["openssl", "req", *command], check=True, capture_output=True)


certificates()


class Gateway:
    """A gateway with a plaintext and a TLS listener in front of the service `s`, until the `with` ends."""

    def __init__(self, port, service="protocol: h2c", server="", route="", routes=None):
        self.plain, self.tls, self.admin = free_port(), free_port(), free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="frontdesk-hostile-")
        service = service.replace("TLS", f"tls: {{ ca: {CA}, sni: localhost }}")
        self.yaml = f"""
listeners:
  - bind: 127.0.0.1:{self.plain}
  - {{ bind: "127.0.0.1:{self.tls}", tls: {{ certificates: [{{ cert: {CERT}, key: {KEY} }}] }} }}
admin: {{ bind: 127.0.0.1:{self.admin} }}
server: {{ {server} }}
access_log: {{ path: {self.folder.name}/access.log }}
services: {{ s: {{ endpoints: [{", ".join(f"127.0.0.1:{p}" for p in (port if isinstance(port, list) else [port]))}], {service} }} }}
routes: {routes or f"[{{ path: /*, to: s{', ' + route if route else ''} }}]"}
"""
        self.file = f"{self.folder.name}/frontdesk.yaml"
        with open(self.file, "w") as f:
            f.write(self.yaml)
        self.log = open(f"{self.folder.name}/error.log", "w+")
        self.process = subprocess.Popen([sys.argv[1], "run", "-c", self.file], stdout=subprocess.DEVNULL, stderr=self.log)
        try:
            until("the gateway", lambda: self.process.poll() is not None or "ready: " in self.errors())
            assert self.process.poll() is None, self.errors()
        except AssertionError:
            self.__exit__()
            raise

    def errors(self):
        with open(self.log.name) as f:
            return f.read()

    def signal(self, number):
        self.process.send_signal(number)

    def reload(self):
        before = self.metric('frontdesk_reloads_total{result="ok"}')
        self.signal(signal.SIGHUP)
        until("the reload", lambda: self.metric('frontdesk_reloads_total{result="ok"}') > before)

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def rss(self, peak=False):
        """MiB."""
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(next(line for line in f if line.startswith("VmHWM" if peak else "VmRSS")).split()[1]) // 1024

    def access(self, count):
        def lines():
            with open(f"{self.folder.name}/access.log") as f:
                got = [json.loads(line) for line in f.read().splitlines()]
            return len(got) >= count and got

        return until(f"{count} lines in the access log", lines)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        self.folder.cleanup()


@contextlib.contextmanager
def program(*command, port, **more):
    """A server as a process of its own."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)

    def listens():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True

    try:
        until(command[0], listens)
        yield process
    finally:
        process.kill()
        process.wait()


def tls_server():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERT, KEY)
    return context


def tls_client(alpn=("h2",)):
    context = ssl.create_default_context(cafile=CA)
    context.set_alpn_protocols(list(alpn))
    return context


class H2Server:
    """An HTTP/2 service. `handle(connection, event)` gets every event of h2; `connections` counts those that were accepted."""

    def __init__(self, handle, tls=False, settings=None, opened=None):
        self.handle, self.settings, self.opened = handle, settings or {}, opened
        self.context = tls_server() if tls else None
        if tls:
            self.context.set_alpn_protocols(["h2"])
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.connections, self.peers, self.faults = 0, [], []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self.serve, args=(sock, self.connections), daemon=True).start()

    def serve(self, sock, number):
        import h2.exceptions

        with contextlib.suppress(OSError):
            if self.context:
                sock = self.context.wrap_socket(sock, server_side=True)
            peer = H2Peer(sock, False, self.settings, number)
            self.peers.append(peer)
            if self.opened:
                self.opened(peer)
            try:
                for event in peer.events():
                    with contextlib.suppress(h2.exceptions.StreamClosedError):  # it was reset meanwhile
                        self.handle(peer, event)
                    peer.flush()
            except h2.exceptions.ProtocolError as e:
                self.faults.append(f"{type(e).__name__}: {e}")
                peer.flush()  # GOAWAY
                peer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for peer in self.peers:
            peer.close()


class H2Peer:
    """One HTTP/2 connection, of either side."""

    def __init__(self, sock, is_client, settings=None, number=0):
        import h2.config
        import h2.connection

        self.sock, self.number, self.lock = sock, number, threading.RLock()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = h2.config.H2Configuration(
            client_side=is_client, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.waiting, self.acknowledge = {}, True
        # Written by hand: what is in flight before they arrive is no fault of the other side, which h2 would take it for.
        self.raw(frame(4, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in (settings or {}).items())))

    def events(self):
        import h2.events

        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                return
            if not data:
                return
            with self.lock:
                for event in self.h2.receive_data(data):
                    if isinstance(event, h2.events.DataReceived) and self.acknowledge and event.flow_controlled_length:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    if isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
                        self.pump()
                    yield event
                self.flush()

    def flush(self):
        with self.lock, contextlib.suppress(OSError):
            if data := self.h2.data_to_send():
                self.sock.sendall(data)

    def head(self, stream, fields, end=False):
        with self.lock:
            self.h2.send_headers(stream, fields, end_stream=end)
            self.flush()

    def body(self, stream, chunks, then=None):
        """Sends an iterator's chunks as flow control allows, then ends the stream, or calls `then`."""
        with self.lock:
            self.waiting[stream] = [iter(chunks), b"", then or (lambda: self.h2.end_stream(stream))]
            self.pump()

    def pump(self):
        import h2.exceptions

        for stream, state in list(self.waiting.items()):
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                if self.pumped(stream, state):
                    continue
            self.waiting.pop(stream, None)  # all is sent, or nobody wants it any more
        self.flush()

    def pumped(self, stream, state):
        """Whether something is left for later."""
        while (chunk := state[1] or next(state[0], None)) is not None:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            state[1] = chunk[room:] if room > 0 else chunk
            if room <= 0:
                return True
            self.h2.send_data(stream, chunk[:room])
            self.flush()
        self.waiting.pop(stream)
        state[2]()
        return False

    def answer(self, stream, body=b"", status="200", fields=(), trailers=None):
        self.head(stream, [(":status", status), *fields], end=not body and trailers is None)
        if body or trailers is not None:
            then = None if trailers is None else lambda: self.h2.send_headers(stream, trailers, end_stream=True)
            self.body(stream, (body[i : i + 16384] for i in range(0, len(body), 16384)), then)

    def raw(self, data):
        with self.lock, contextlib.suppress(OSError):
            self.flush()
            self.sock.sendall(data)

    def close(self):
        for act in (lambda: self.sock.shutdown(socket.SHUT_RDWR), self.sock.close):
            with contextlib.suppress(OSError):
                act()


def frame(kind, flags, stream, payload=b""):
    """An HTTP/2 frame by hand."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def goaway(last, code=0):
    return frame(7, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big"))
