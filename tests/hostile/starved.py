"""No descriptors left, and more connections than are allowed. `python3 starved.py BINARY [PART OF A CASE'S NAME]`"""

from common import *

YAML = """
listeners:
  - { name: plain, bind: 127.0.0.1:0 }
  - { name: tls, bind: 127.0.0.1:0, tls: { certificates: [{ cert: DIR/cert.pem, key: DIR/key.pem }] } }
server: { threads: 2, SERVER timeouts: { keepalive: 60s } }
services: { s: { endpoints: [ORIGIN] } }
routes: [{ path: /fixed, respond: { body: fixed } }, { path: /*, to: s }]
"""


def ask(gateway, path, listener="plain", timeout=3):
    try:
        with contextlib.closing(gateway.connect(listener, timeout=timeout)) as sock, sock.makefile("rb") as stream:
            sock.sendall(get(path, b"Connection: close\r\n"))
            return read_answer(stream)[0]
    except (OSError, http.client.HTTPException) as e:
        return type(e).__name__


def rate_of(gateway, seconds):
    """Lines and bytes a second of the error log, and the share of a core, while nothing changes."""
    log, cpu = gateway.log(), gateway.cpu()
    time.sleep(seconds)
    more = gateway.log()[len(log) :]
    return more.count("\n") / seconds, len(more) / seconds, (gateway.cpu() - cpu) / seconds


def descriptors(report, origin):
    with Gateway(YAML.replace("ORIGIN", origin.address).replace("SERVER", ""), nofile=64) as gateway:
        report.case(
            "64 descriptors: served at first", (ask(gateway, b"/fixed"), ask(gateway, b"/x")) == (200, 200), f"{gateway.descriptors()} in use"
        )
        # More than fit. Those that are accepted are kept by a request each.
        held, kept = [], None
        for i in range(100):
            sock = gateway.connect("plain", timeout=1)
            held.append(sock)
            if i == 0:
                kept = sock
                sock.sendall(get(b"/fixed"))
                sock.recv(65536)
        time.sleep(1)
        lines, size, cpu = rate_of(gateway, 4)
        report.case(
            "descriptors ran out: the log is not flooded",
            lines <= 2,
            f"{lines:.1f} lines and {size:.0f} bytes a second, {gateway.descriptors()} descriptors in use; last: {gateway.log().splitlines()[-1][:120]}",
        )
        report.case("descriptors ran out: no CPU is burnt", cpu < 0.1, f"{cpu * 100:.1f} % of a core")
        kept.sendall(get(b"/fixed"))
        with contextlib.suppress(TimeoutError):
            report.case("descriptors ran out: a kept connection is served", kept.recv(65536).startswith(b"HTTP/1.1 200"), "")
        kept.sendall(get(b"/x"))
        kept.settimeout(3)
        got = b""
        with contextlib.suppress(TimeoutError):
            got = kept.recv(65536)
        report.case(
            "descriptors ran out: a service that can't be reached is 502 or 503, kept connections aside",
            got[9:12] in (b"200", b"502", b"503"),
            got[:60] + got[-150:],
        )
        began = time.monotonic()
        try:
            seen = gateway.ask("/healthz")
        except OSError as e:
            seen = type(e).__name__
        report.case("descriptors ran out: /healthz answers", seen and not isinstance(seen, str), f"{seen} after {time.monotonic() - began:.1f} s")
        late = Beside(ask, gateway, b"/fixed", "plain", 2).result(10)
        report.case(
            "descriptors ran out: a new client is shed or waits", late in (503, "RemoteDisconnected", "ConnectionResetError", "TimeoutError"), late
        )
        for sock in held:
            sock.close()
        began = time.monotonic()
        back = eventually(lambda: ask(gateway, b"/fixed") == 200 and ask(gateway, b"/x") == 200, 10)
        report.case("descriptors are back: served again", back, f"after {time.monotonic() - began:.1f} s")
        report.case("descriptors are back: nothing is left", gateway.is_idle(10), f"{gateway.status()} {gateway.descriptors()} descriptors")
        # Upgrades, reloads and logs need descriptors too.
        report.case(
            "descriptors ran out: alive", gateway.is_alive() and gateway.log().count("panic") == 0, f"{gateway.log().count(chr(10))} lines in all"
        )


def upstream_descriptors(report, origin):
    """Clients fit, but not their connections to the service."""
    with Gateway(YAML.replace("ORIGIN", origin.address).replace("SERVER", ""), nofile=64) as gateway:
        room = 64 - gateway.descriptors()
        clients = [gateway.connect("plain", timeout=4) for _ in range(room * 2 // 3)]
        for sock in clients:
            sock.sendall(get(b"/held"))
        got = collections.Counter()
        time.sleep(0.5)
        lines = gateway.log()
        for sock in clients:
            try:
                answer = sock.recv(65536)
                got[answer[9:12] + b" " + (re.search(rb'"code":"(\w+)"', answer) or [b"", b""])[1]] += 1
            except OSError as e:
                got[type(e).__name__] += 1
            sock.close()
        report.case(
            "no descriptors towards the service: 200 or a refusal with its code",
            got and set(got) <= {b"200 ", b"502 upstream_connect", b"503 overloaded"},
            dict(got),
        )
        report.case(
            "no descriptors towards the service: the log is bounded",
            lines.count("\n") < 60,
            f"{lines.count(chr(10))} lines; {lines.splitlines()[-1][:200]}",
        )
        report.case(
            "no descriptors towards the service: afterwards",
            eventually(lambda: ask(gateway, b"/x") == 200, 5) and gateway.is_idle(10),
            gateway.status(),
        )


def connections(report, origin):
    with Gateway(YAML.replace("ORIGIN", origin.address).replace("SERVER", "max_connections: 50,")) as gateway:
        kept = [gateway.connect("plain") for _ in range(50)]
        for sock in kept:
            sock.sendall(get(b"/fixed"))
            sock.recv(65536)
        lines, seen = gateway.log().count("\n"), collections.Counter(ask(gateway, b"/fixed") for _ in range(300))
        report.case("connections above the limit: 503", set(seen) == {503}, dict(seen))
        report.case(
            "connections above the limit: closed over TLS",
            set(tls := collections.Counter(ask(gateway, b"/fixed", "tls") for _ in range(50)))
            <= {"SSLEOFError", "ConnectionResetError", "SSLZeroReturnError"},
            dict(tls),
        )
        with contextlib.suppress(OSError):
            with H2(gateway, "h2c") as client:
                client.send(headers(1, pseudo()))
                client.hear(seconds=2)
                report.case(
                    "connections above the limit: HTTP/2 is ended", client.end or client.goaway, f"{client.end} {client.goaway} {client.buffer[:50]}"
                )
        # Refused ones that linger, by the hundred, must not become a way around the limit.
        lingering, before = [gateway.connect("plain") for _ in range(400)], gateway.descriptors()
        time.sleep(0.5)
        report.case(
            "connections above the limit: those that stay are closed",
            eventually(lambda: gateway.descriptors() < 50 + 40, 8),
            f"{before} descriptors at once, then {gateway.descriptors()}; {gateway.status()}",
        )
        report.case(
            "connections above the limit: the log is not flooded",
            gateway.log().count("\n") - lines < 20,
            f"{gateway.log().count(chr(10)) - lines} lines for {300 + 50 + 400} refusals",
        )
        kept[0].sendall(get(b"/fixed"))
        report.case("connections above the limit: a kept one is served", kept[0].recv(65536).startswith(b"HTTP/1.1 200"))
        report.case("connections above the limit: admin answers", b"connections" in gateway.ask("/status"), gateway.status())
        for sock in kept + lingering:
            sock.close()
        report.case("connections gone: served again", eventually(lambda: ask(gateway, b"/x") == 200, 5) and gateway.is_idle(10), gateway.status())


def deaf(report, _):
    """A service that never accepts: who asked for it and went away must not be worked for any longer."""
    listener, fill = socket.socket(), [socket.socket() for _ in range(3)]
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for sock in fill:
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
    yaml = YAML.replace("ORIGIN", "127.0.0.1:%d" % listener.getsockname()[1]).replace("] } }\nroutes", "], timeouts: { connect: 5s } } }\nroutes")
    with Gateway(yaml.replace("SERVER", "")) as gateway:
        sock = gateway.connect("plain")
        sock.sendall(get(b"/x"))
        time.sleep(0.3)
        sock.close()
        began, idle = time.monotonic(), gateway.is_idle(1)
        report.case("a service that does not accept: a client that goes away", idle, f"{gateway.status()} after {time.monotonic() - began:.1f} s")
        gateway.is_idle(20)
        text, rst, before, most, went = block(pseudo(path=b"/x")), struct.pack(">I", 8), gateway.memory(), 0, False
        for _ in range(20):
            with H2(gateway, "h2c") as client:
                for first in range(1, 1000, 30):
                    pongs, some = client.pongs, range(first, first + 30, 2)
                    client.send(b"".join(frame(HEADERS, 5, stream, text) for stream in some) + frame(PING, 0, 0, bytes(8)))
                    client.hear(lambda: client.pongs > pongs or client.goaway, 1)
                    client.send(b"".join(frame(RST, 0, stream, rst) for stream in some))
                    if client.goaway or client.end:
                        break
            most = max(most, gateway.status()[1])
        report.case(
            "a service that does not accept: resets by one client at a time",
            most <= 200,
            f"{most} in flight, {gateway.descriptors()} descriptors, {gateway.memory() - before:+.1f} MiB",
        )
        report.case("a service that does not accept: nothing is left", gateway.is_idle(30), gateway.status())


def script(sock, head):
    time.sleep(2 if b"/held" in head else 0)
    sock.sendall(ok())
    return True


def main():
    report, origin = Report(), Origin(script)
    for part in (descriptors, upstream_descriptors, connections, deaf):
        if report.wants(part.__name__):
            part(report, origin)
    report.end()


if __name__ == "__main__":
    main()
