"""Memory of idle connections: opens many that have had one answer each, and looks at what the gateway grew by."""

import contextlib
import http.client
import select
import socket
import ssl
import time

from gateways import BODIES, Failure, stop

KINDS = ("plain", "tls", "h2")


def measure_idle(bench, name, kind, count):
    """KiB at rest, and KiB for each of `count` connections that have had one answer; of a fresh process."""
    gateway = bench.gateway(name)
    at_rest = settled(gateway.rss_kib)
    port = gateway.ports["http" if kind == "plain" else "https"]
    with contextlib.ExitStack() as held:
        held.enter_context(ask(kind, port))
        before = settled(gateway.rss_kib)
        connections = [held.enter_context(ask(kind, port)) for _ in range(count)]
        after = settled(gateway.rss_kib)
        poll = select.poll()
        for each in connections:
            poll.register(each, select.POLLRDHUP)
        if closed := len(poll.poll(0)):
            raise Failure(f"{closed} of {count} connections were closed meanwhile")
    stop(gateway.process)
    return {"at_rest_kib": at_rest, "per_connection_kib": (after - before) / count}


def settled(read):
    """What `read` gives once it gives the same twice, within two seconds."""
    last = read()
    for _ in range(20):
        time.sleep(0.1)
        last, previous = read(), last
        if last == previous:
            break
    return last


def ask(kind, port):
    """An open connection that has had the answer to one request."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    if kind != "plain":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2" if kind == "h2" else "http/1.1"])
        connection = context.wrap_socket(connection, server_hostname="bench.test")
    with connection.makefile("rb") as answer:
        ok = ask_h2(connection, answer) if kind == "h2" else ask_h1(connection, answer)
    if not ok:
        raise Failure("the answer was not a 200")
    return connection


def ask_h1(connection, answer):
    connection.sendall(b"GET /1k HTTP/1.1\r\nHost: bench.test\r\n\r\n")
    status = answer.readline()
    fields = http.client.parse_headers(answer)
    return b" 200 " in status and len(answer.read(int(fields["Content-Length"]))) == BODIES["1k"]


def ask_h2(connection, answer):
    """As little of RFC 9113 as one GET takes; its head is two indexed fields and two literals (RFC 7541)."""
    def frame(kind, flags, stream, payload=b""):
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    data, headers, settings, ack, end_stream, end_headers = 0, 1, 4, 1, 1, 4
    head = b"\x82\x87\x04\x03/1k\x01\x0abench.test"
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(settings, 0, 0)
                       + frame(headers, end_stream | end_headers, 1, head))
    ok = False
    while len(start := answer.read(9)) == 9:
        payload = answer.read(int.from_bytes(start[:3], "big"))
        kind, flags = start[3], start[4]
        if kind == settings and not flags & ack:
            connection.sendall(frame(settings, ack, 0))
        elif kind == headers:
            ok = payload[:1] == b"\x88"  # :status 200
        if kind in (headers, data) and flags & end_stream:
            return ok
    return False
