"""A thousand clients that give or take slowly, and slowhttptest. `python3 slow.py BINARY [PART OF A CASE'S NAME]`"""

from common import *
import asyncio, resource, shutil

CLIENTS, DUE, GRACE = 1000, 3, 9
YAML = """
listeners:
  - { name: plain, bind: 127.0.0.1:0 }
  - { name: tls, bind: 127.0.0.1:0, tls: { certificates: [{ cert: DIR/cert.pem, key: DIR/key.pem }] } }
server:
  threads: 2
  timeouts: { request_header: 3s, request_body: 3s, keepalive: 3s, client_write: 3s, tls_handshake: 3s }
  http2: { idle_timeout: 3s }
services:
  s: { endpoints: [ORIGIN], timeouts: { read: 60s }, keepalive: { connections: 0 } }
  tls: { endpoints: [SECURE], tls: { verify: false }, timeouts: { read: 60s } }
  h2c: { endpoints: [HTTP2], protocol: h2c, timeouts: { read: 60s } }
routes:
  - { path: /fixed, respond: { body: fixed } }
  - { path: /tls/large, to: tls }
  - { path: /h2c/large, to: h2c, request: { path: /large } }
  - { path: /*, to: s }
"""


async def service(reader, writer):
    """A service that drinks all, and has endless answers."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/large " in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        if b"POST" not in head:
            writer.write(ok())
        while await reader.read(65536):
            pass
    writer.close()


def serve(listener, tls=None):
    async def run():
        async with await asyncio.start_server(service, sock=listener, backlog=4096, ssl=tls) as server:
            await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def http2_service():
    """An HTTP/2 service (nghttpd) with a large answer; where it is."""
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/large", "wb") as file:
            file.truncate(10_000_000_000)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = subprocess.Popen(["nghttpd", "--no-tls", "-d", folder, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


async def client(port, first, drip, pause, reads, started, small):
    """Sends `first`, then a byte of `drip` at a time; says after how long it was ended, and with which words."""
    sock = socket.socket()
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop, got, end = asyncio.get_running_loop(), b"", "open"
    try:
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, first)
        began, at = time.monotonic(), 0
        while time.monotonic() - began < DUE + GRACE:
            try:
                if reads:
                    part = await asyncio.wait_for(loop.sock_recv(sock, reads), pause)
                    got = (got + part)[:4000]
                    if not part:
                        end = "closed"
                        break
                    if reads > 1:
                        continue
                await asyncio.sleep(pause)
            except TimeoutError:
                pass
            if drip:
                await loop.sock_sendall(sock, drip[at % len(drip) : at % len(drip) + 1])
                at += 1
            elif not reads:
                # Who does not read does not see the end: the socket knows it.
                state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
                if state != 1:
                    end = "ended"
                    break
    except OSError as e:
        end = type(e).__name__
    sock.close()
    status = re.findall(rb"HTTP/1.1 (\d+)", got)
    return time.monotonic() - began if end != "open" else 0, f"{b' '.join(status).decode()} {end}".strip()


def crowd(port, first, drip, pause, reads, small):
    async def run():
        return await asyncio.gather(*(client(port, first, drip, pause, reads, time.monotonic(), small) for _ in range(CLIENTS)))

    return asyncio.run(run())


def upload(coding):
    return b"POST /x HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % coding


H2_START = PREFACE + settings()
POSTED = headers(1, pseudo(b"POST", b"/x"), False)
# Listener, what is sent at once, what is dripped, every how many seconds, how much is read at a time, MiB that all may cost.
CASES = {
    "head dripped": ("plain", b"GET /fixed HTTP/1.1\r\nHost: localhost\r\nX: ", b"x", 1, 65536, 32),
    "head dripped, lines": ("plain", b"GET /fixed HTTP/1.1\r\n", b"X: y\r\n", 0.5, 65536, 32),
    "head of a byte": ("plain", b"G", b"", 1, 65536, 32),
    "head half, 16 KiB": ("plain", b"GET /fixed HTTP/1.1\r\nX: " + b"x" * 16000, b"x", 1, 65536, 64),
    "nothing": ("plain", b"", b"", 1, 65536, 32),
    "blank lines dripped": ("plain", b"\r\n", b"\r\n", 0.5, 65536, 32),
    "second head dripped": ("plain", get(b"/fixed") + b"GET /fix", b"x", 1, 65536, 32),
    "at rest": ("plain", get(b"/fixed"), b"", 1, 65536, 32),
    "at rest behind a service": ("plain", get(b"/x"), b"", 1, 65536, 64),
    "body silent": ("plain", upload(b"Content-Length: 1000") + b"abc", b"", 1, 65536, 64),
    "chunks silent": ("plain", upload(b"Transfer-Encoding: chunked") + b"5\r\nab", b"", 1, 65536, 64),
    "body dripped (minimum rate)": ("plain", upload(b"Content-Length: 100000"), b"x", 1, 65536, 64),
    "chunks dripped (minimum rate)": ("plain", upload(b"Transfer-Encoding: chunked") + b"5000\r\n", b"x", 1, 65536, 64),
    "chunk extension dripped": ("plain", upload(b"Transfer-Encoding: chunked") + b"5;", b"x", 1, 65536, 64),
    "trailers dripped": ("plain", upload(b"Transfer-Encoding: chunked") + b"0\r\nX: ", b"x", 1, 65536, 64),
    "nothing read of a large answer": ("plain", get(b"/large"), b"", 0.5, 0, 256),
    "a byte a second read of a large answer": ("plain", get(b"/large"), b"", 1, 1, 256),
    "nothing read of a large answer of a service over TLS": ("plain", get(b"/tls/large"), b"", 0.5, 0, 256),
    "nothing read of a large answer of a service over h2c": ("plain", get(b"/h2c/large"), b"", 0.5, 0, 256),
    "many sent ahead, nothing read": ("plain", get(b"/fixed") * 500, b"", 0.5, 0, 64),
    "TLS: nothing": ("tls", b"", b"", 1, 65536, 32),
    "TLS: hello dripped": ("tls", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"x", 0.5, 65536, 32),
    "TLS: half a hello": ("tls", b"\x16\x03\x01\x40\0\x01\0\x3f\xfc\x03\x03" + b"x" * 10000, b"", 1, 65536, 64),
    "h2: half a preface": ("plain", PREFACE[:10], b"", 1, 65536, 32),
    "h2: preface dripped": ("plain", PREFACE[:2], PREFACE[2:], 0.5, 65536, 32),
    "h2: at rest": ("plain", H2_START, b"", 1, 65536, 64),
    "h2: at rest behind a request": ("plain", H2_START + headers(1, pseudo()), b"", 1, 65536, 64),
    "h2: HEADERS dripped": ("plain", H2_START + headers(1, pseudo())[:12], headers(1, pseudo(path=b"/fixed?" + b"x" * 100))[12:], 1, 65536, 64),
    "h2: CONTINUATION dripped": ("plain", H2_START + frame(HEADERS, 1, 1, block(pseudo())), frame(CONTINUATION, 0, 1), 0.2, 65536, 64),
    "h2: body silent": ("plain", H2_START + POSTED, b"", 1, 65536, 64),
    "h2: DATA dripped (minimum rate)": ("plain", H2_START + POSTED, frame(DATA, 0, 1, b"x"), 0.2, 65536, 64),
    "h2: a DATA frame dripped": ("plain", H2_START + POSTED + frame(DATA, 0, 1, bytes(10000))[:9], b"x", 1, 65536, 64),
    "h2: window 0, a large answer": ("plain", PREFACE + settings(window=0) + headers(1, pseudo(path=b"/large")), b"", 1, 65536, 256),
    "h2: nothing read of a large answer": (
        "plain",
        PREFACE + settings(window=(1 << 31) - 1) + frame(WINDOW, 0, 0, struct.pack(">I", 0x7FFF0000)) + headers(1, pseudo(path=b"/large")),
        b"",
        0.5,
        0,
        256,
    ),
}


def slowhttptest(report, gateway):
    if not shutil.which("slowhttptest"):
        return print("slowhttptest is not installed: skipped")
    url = f"http://127.0.0.1:{gateway.ports['plain']}/"
    for mode, options in [("-H", []), ("-B", ["-s", "8192"]), ("-R", []), ("-X", ["-w", "1", "-y", "1", "-n", "5", "-z", "1", "-k", "1"])]:
        with Honest(gateway) as honest:
            text = subprocess.run(
                [
                    "slowhttptest",
                    mode,
                    "-c",
                    "500",
                    "-i",
                    "1",
                    "-r",
                    "250",
                    "-l",
                    "12",
                    "-x",
                    "24",
                    "-p",
                    "3",
                    "-u",
                    url + ("large" if mode == "-X" else "x"),
                    *options,
                ],
                capture_output=True,
                text=True,
            ).stdout
        text = re.sub(r"\x1b\[[0-9;]*m", "", text)
        seen = {name: (re.findall(rf"{name}:\s+(\S+)", text) or ["?"])[-1] for name in ("closed", "connected", "error", "service available")}
        exit_status = (re.findall(r"Exit status:\s*(.*)", text) or ["?"])[-1]
        report.case(
            f"slowhttptest {mode}",
            seen["service available"] == "YES"
            and (mode == "-X" or "No open" in exit_status)
            and honest.quantile(0.5) < 100
            and not honest.errors
            and gateway.is_idle(15),
            f"{seen} {exit_status}; {honest}",
        )


def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(16384, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    report, listener = Report(), socket.create_server(("127.0.0.1", 0), backlog=4096)
    secure, tls = socket.create_server(("127.0.0.1", 0), backlog=4096), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        tls.load_cert_chain(*certificate(folder))
    Beside(serve, listener)
    Beside(serve, secure, tls)
    at = lambda sock: "127.0.0.1:%d" % sock.getsockname()[1]
    with (
        http2_service() as http2,
        Gateway(YAML.replace("ORIGIN", at(listener)).replace("SECURE", at(secure)).replace("HTTP2", http2), nofile=16384) as gateway,
    ):
        for name, (where, first, drip, pause, reads, memory) in CASES.items():
            if not report.wants(name):
                continue
            gateway.is_idle(30)
            gateway.forget_peak()
            before, lines, cpu = gateway.memory(), gateway.log().count("\n"), gateway.cpu()
            with Honest(gateway, pause=0.05) as honest:
                takes_little = reads < 2
                crowded = Beside(crowd, gateway.ports[where], first, drip, pause, reads, takes_little)
                # Who takes little does not see its end: the gateway is asked whether it still counts them.
                held = (
                    takes_little
                    and eventually(lambda: gateway.status()[0] > CLIENTS / 4, 5)
                    and not eventually(lambda: gateway.status()[0] < CLIENTS / 20, DUE + GRACE - 4)
                    and gateway.status()[0]
                )
                ends = crowded.result(DUE + GRACE + 30) or []
            growth, lines = gateway.memory("VmHWM") - before, gateway.log().count("\n") - lines
            times, words = [took for took, _ in ends if took], collections.Counter(word for _, word in ends)
            left = not gateway.is_idle(10) and gateway.status()
            wrong = [
                text
                for bad, text in [
                    (held if takes_little else len(times) < CLIENTS, f"{held or CLIENTS - len(times)} were never ended"),
                    (growth > memory, "memory"),
                    (honest.quantile(0.5) > 100 or honest.errors, "honest client"),
                    (left, f"left over: {left}"),
                    (lines > 50, "log"),
                ]
                if bad
            ]
            report.case(
                name,
                not wrong,
                f"{', '.join(wrong)}{': ' if wrong else ''}{dict(words)} after {min(times, default=0):.1f} to {max(times, default=0):.1f} s; {growth:+.1f} MiB ({growth * 1024 / CLIENTS:.0f} KiB each), "
                f"cpu {gateway.cpu() - cpu:.2f} s, {lines} log lines; {honest}",
            )
        if report.wants("slowhttptest"):
            slowhttptest(report, gateway)
        report.case(
            "alive at the end",
            gateway.is_alive() and gateway.is_idle(20),
            f"{gateway.status()}, {gateway.memory():.0f} MiB, {gateway.descriptors()} descriptors",
        )
    report.end()


if __name__ == "__main__":
    main()
