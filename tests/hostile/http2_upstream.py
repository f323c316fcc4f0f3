#!/usr/bin/env python3
"""The gateway towards h2 and h2c services: nghttpd, and servers of Python's h2 that misbehave.

usage: http2_upstream.py BINARY [WORD...]; needs: apt install nghttp2-server nghttp2-client curl; pip install h2
"""

import contextlib
import http.client
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import h2.events as ev
from h2.settings import SettingCodes as S

from real import CERT, KEY, Gateway, H2Peer, H2Server, case, frame, free_port, goaway, known, main, program, same, tls_client, until

OPEN, TLS = "protocol: h2c", "protocol: h2, TLS"
BROKEN = (http.client.IncompleteRead, ConnectionResetError)


def ask(gateway, target="/", method="GET", body=None, headers=(), timeout=10):
    """Status, headers and body of one request over HTTP/1.1 on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.plain, timeout=timeout)
    with contextlib.closing(connection):
        connection.request(method, target, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, dict((k.lower(), v) for k, v in answer.getheaders()), answer.read()


def broken(f):
    try:
        got = f()
    except BROKEN as e:
        return type(e).__name__
    assert got[0] >= 500, f"a well-formed answer: {got[0]} with {len(got[2])} bytes"
    return f"{got[0]} {got[2][-60:]!r}"


def at_once(gateway, count, f=None):
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(f or (lambda i: ask(gateway, f"/{i}", timeout=20)), range(count)))


def h2_client(gateway, tls=False):
    sock = socket.create_connection(("127.0.0.1", gateway.tls if tls else gateway.plain), timeout=20)
    return H2Peer(tls_client().wrap_socket(sock, server_hostname="localhost") if tls else sock, True)


def request(peer, stream, path="/", method="GET", end=True, fields=()):
    peer.head(stream, [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path), *fields], end)


def collect(peer, streams):
    """What came on these streams, until all have ended or were reset."""
    got = {s: {"heads": [], "body": 0, "trailers": None, "reset": None} for s in streams}
    left = set(streams)
    for event in peer.events():
        mine = got.get(getattr(event, "stream_id", None))
        if mine is None:
            continue
        if isinstance(event, (ev.ResponseReceived, ev.InformationalResponseReceived)):
            mine["heads"].append(dict(event.headers))
        elif isinstance(event, ev.DataReceived):
            mine["body"] += len(event.data)
        elif isinstance(event, ev.TrailersReceived):
            mine["trailers"] = dict(event.headers)
        elif isinstance(event, ev.StreamReset):
            mine["reset"] = event.error_code
        if isinstance(event, (ev.StreamEnded, ev.StreamReset)):
            left.discard(event.stream_id)
        if not left:
            peer.flush()
            return got
    raise AssertionError(f"the connection ended with streams {left} open: {got}")


def on_end(f):
    """A handler that answers requests when they have ended; `f` gets the connection and the stream."""

    def handle(peer, event):
        if isinstance(event, ev.StreamEnded):
            f(peer, event.stream_id)

    return handle


def on_head(f):
    def handle(peer, event):
        if isinstance(event, ev.RequestReceived):
            f(peer, event.stream_id, dict(event.headers))

    return handle


plainly = on_end(lambda peer, stream: peer.answer(stream, b"ok"))


def held(count):
    """Answers all when `count` are there."""
    lock, waiting = threading.Lock(), []

    def handle(peer, event):
        if isinstance(event, ev.StreamEnded):
            with lock:
                waiting.append((peer, event.stream_id))
                ready = list(waiting) if len(waiting) >= count else []
                if ready:
                    waiting.clear()
            for p, stream in ready:
                p.answer(stream, b"ok")

    return handle


def tally(values):
    return {value: values.count(value) for value in set(values)}


def both(f):
    """One case towards h2c, one towards h2."""
    for service in (OPEN, TLS):

        def run(service=service):
            return f(service)

        run.__name__ = f"{f.__name__}__{'h2' if service is TLS else 'h2c'}"
        case(run)


# Streams and connections.


@both
def a_hundred_at_once_share_connections(service):
    with H2Server(held(100), service is TLS) as server, Gateway(server.port, service) as gateway:
        counts = []
        for _ in range(3):
            same({a[0] for a in at_once(gateway, 100)}, {200})
            counts.append(server.connections)
        client = h2_client(gateway)
        for i in range(100):
            request(client, 2 * i + 1, f"/{i}")
        same({a["heads"][0][":status"] for a in collect(client, range(1, 201, 2)).values()}, {"200"})
        counts.append(server.connections)
        seen = f"connections opened so far: cold, warm, warm, by one h2 client: {counts}"
        assert counts[0] <= 20 and counts[-1] - counts[0] <= 2, seen
        return seen


@case
def two_hundred_and_fifty_at_once_need_three_connections():
    with H2Server(held(250)) as server, Gateway(server.port) as gateway:
        same(ask_one_by_one(gateway, server), 250)
        return f"{server.connections} connections"


def ask_one_by_one(gateway, server):
    """Requests that begin 4 ms apart and are all in flight in the end."""
    with ThreadPoolExecutor(250) as pool:
        jobs = []
        for i in range(250):
            jobs.append(pool.submit(ask, gateway, f"/{i}", timeout=30))
            time.sleep(0.004)
        return sum(job.result()[0] == 200 for job in jobs)


@case
def nghttpd_under_load():
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/x", "wb") as f:
            f.write(os.urandom(1024))
        with program("nghttpd", "--no-tls", "-d", folder, str(port), port=port), Gateway(port) as gateway:
            seen = []
            for more in (["-c8", "-m20"], ["-c50", "-m1", "--h1"]):
                out = subprocess.run(
                    ["h2load", "-n5000", *more, f"http://127.0.0.1:{gateway.plain}/x"], capture_output=True, text=True, timeout=60
                ).stdout
                assert "5000 succeeded, 0 failed, 0 errored" in out and "5000 2xx" in out, out
                seen.append(re.search(r"finished in .*?req/s", out)[0])
            with open("/proc/net/tcp") as f:
                open_now = sum(f":{port:04X} 01 " in " ".join(line.split()[2:4]) + " " for line in f)
            return f"{seen}; connections at the end: {open_now}"


@both
def a_limit_of_two_streams_of_nghttpd(service):
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/x", "wb") as f:
            f.write(b"hello")
        how = [str(port), KEY, CERT] if service is TLS else ["--no-tls", str(port)]
        with program("nghttpd", "-m2", "-d", folder, *how, port=port), Gateway(port, service) as gateway:
            statuses = [a[0] for _ in range(4) for a in at_once(gateway, 50, lambda _: ask(gateway, "/x"))]
            posts = [a[0] for _ in range(4) for a in at_once(gateway, 50, lambda _: ask(gateway, "/x", "POST", b"hello"))]
            same({"GET": tally(statuses), "POST": tally(posts)}, {"GET": {200: 200}, "POST": {200: 200}})


@case
def a_limit_of_two_streams_held_by_slow_answers():
    """As nghttp2 does, the service refuses what goes beyond its limit, also what was sent before its SETTINGS came."""
    refused = [0]

    def handle(peer, event):
        if isinstance(event, ev.RequestReceived):
            peer.open = getattr(peer, "open", 0) + 1
            if peer.open > 2:
                peer.open -= 1
                refused[0] += 1
                peer.h2.reset_stream(event.stream_id, 7)
                return

            def later(stream=event.stream_id):
                with peer.lock:
                    peer.answer(stream, b"ok")
                    peer.open -= 1

            timer = threading.Timer(0.2, later)
            timer.daemon = True
            timer.start()

    seen = {}
    with H2Server(handle, settings={S.MAX_CONCURRENT_STREAMS: 2}) as server:
        for method in ("GET", "POST") * 3:
            with Gateway(server.port) as gateway:  # a new one has no connection yet
                for status, *_ in at_once(gateway, 40, lambda _: ask(gateway, "/", method, timeout=20)):
                    seen[method, status] = seen.get((method, status), 0) + 1
        same(seen, {("GET", 200): 120, ("POST", 200): 120}, f"{server.connections} connections, {refused[0]} refused:")


@case
def a_limit_that_is_lowered_while_streams_run():
    first = []

    def handle(peer, event):
        if isinstance(event, ev.StreamEnded):
            if not first:
                first.append(1)
                peer.raw(frame(4, 0, 0, b"\0\3\0\0\0\1"))
            peer.answer(event.stream_id, b"ok")

    with H2Server(handle) as server, Gateway(server.port) as gateway:
        for _ in range(5):
            same({a[0] for a in at_once(gateway, 20)}, {200})
        return f"{server.connections} connections for 100"


@case
def a_limit_of_no_stream_at_all_is_said_in_time():
    with (
        H2Server(plainly, settings={S.MAX_CONCURRENT_STREAMS: 0}) as server,
        Gateway(server.port, OPEN + ", timeouts: { read: 1s, connect: 1s }") as gateway,
    ):
        seen = []
        for _ in range(3):
            started = time.monotonic()
            status, _, body = ask(gateway)
            seen.append((status, body[-70:], round(time.monotonic() - started, 1)))
            assert seen[-1][2] < 4, seen  # the first may come before the limit does
        return seen


# GOAWAY, REFUSED_STREAM, ends.


def retried(how, method, body=None, headers=()):
    """Refuses every other request without having processed it."""
    count = [0]

    def handle(peer, event):
        if isinstance(event, ev.RequestReceived):
            count[0] += 1
            peer.refuses = count[0] % 2 == 1
            if peer.refuses:
                if how == "refused":
                    peer.h2.reset_stream(event.stream_id, 7)
                else:
                    peer.raw(goaway(event.stream_id - 2 if event.stream_id > 1 else 0))
        elif isinstance(event, ev.StreamEnded) and not peer.refuses:
            peer.answer(event.stream_id, b"ok")

    with H2Server(handle) as server, Gateway(server.port) as gateway:
        for i in range(6):
            status, _, got = ask(gateway, f"/{i}", method, body, headers)
            same((status, got if status == 200 else got[-120:]), (200, b"ok"), f"request {i}, {count[0]} arrived:")
            time.sleep(0.05)
    return f"{count[0]} arrived for 6"


for how in ("refused", "goaway"):
    for method, body in (("GET", None), ("POST", None), ("POST", b"hello"), ("PUT", bytes(40_000)), ("DELETE", None)):

        def unprocessed(how=how, method=method, body=body):
            return retried(how, method, body)

        unprocessed.__name__ = f"unprocessed_by_{how}_{method}_{len(body or b'')}_bytes_is_tried_again"
        case(unprocessed)


@case
@known("a refused stream gets 4 attempts")
def a_service_that_refuses_every_stream_is_given_up():
    count = [0]

    def handle(peer, event):
        if isinstance(event, ev.RequestReceived):
            count[0] += 1
            peer.h2.reset_stream(event.stream_id, 7)

    with H2Server(handle) as server, Gateway(server.port) as gateway:
        status, _, body = ask(gateway, "/", "POST", b"hello")
        assert status in (502, 503), status
        assert count[0] <= 3, f"{count[0]} attempts"
        return f"{status} {body[-90:]} after {count[0]} attempts"


@case
def another_endpoint_is_tried_when_one_refuses():
    def refuse(peer, event):
        if isinstance(event, ev.RequestReceived):
            peer.h2.reset_stream(event.stream_id, 7)

    with H2Server(refuse) as one, H2Server(plainly) as two, Gateway([one.port, two.port]) as gateway:
        statuses = [ask(gateway, "/", method, b"x" if method == "POST" else None)[0] for _ in range(10) for method in ("GET", "POST")]
        same(tally(statuses), {200: 20})


@case
def a_post_that_was_begun_is_not_repeated():
    count = [0]

    def handle(peer, event):
        if isinstance(event, ev.StreamEnded):
            count[0] += 1
            if count[0] > 1:
                peer.raw(goaway(event.stream_id, 2))
                peer.close()
            else:
                peer.answer(event.stream_id, b"ok")

    with H2Server(handle) as server, Gateway(server.port) as gateway:
        ask(gateway)
        status, _, body = ask(gateway, "/", "POST", b"hello")
        same((status, count[0]), (502, 2))
        return body[-90:]


@case
def a_post_that_was_seen_is_not_repeated_when_the_service_goes_away():
    """GOAWAY names the stream as one that may have been processed; then the connection ends without an answer."""
    for way in ("at once", "later", "twice"):
        count = [0]

        def handle(peer, event, way=way, count=count):
            if isinstance(event, ev.StreamEnded):
                count[0] += 1
                if way == "twice":  # as servers do that end gracefully
                    peer.raw(goaway((1 << 31) - 1))
                    time.sleep(0.1)
                peer.raw(goaway(event.stream_id))
                time.sleep(0 if way == "at once" else 0.1)
                peer.close()

        with H2Server(handle) as server, Gateway(server.port) as gateway:
            status = ask(gateway, "/", "POST", b"hello")[0]
            same((status, count[0]), (502, 1), way)


@both
def a_goaway_lets_streams_in_flight_finish(service):
    parked = []

    def handle(peer, event):
        if isinstance(event, ev.StreamEnded):
            if peer.number == 1 and len(parked) < 5:
                parked.append((peer, event.stream_id))
                if len(parked) == 5:
                    peer.raw(goaway(event.stream_id))
            else:
                peer.answer(event.stream_id, b"new")

    with H2Server(handle, service is TLS) as server, Gateway(server.port, service) as gateway, ThreadPoolExecutor(5) as pool:
        jobs = []
        for i in range(5):
            jobs.append(pool.submit(ask, gateway, f"/{i}"))
            until("the stream", lambda: len(parked) > i or server.connections > 1)
        same(server.connections, 1, "connections:")
        time.sleep(0.1)
        for _ in range(5):
            same(ask(gateway)[2], b"new")
        for peer, stream in parked:
            peer.answer(stream, b"x" * 200_000)
        same([len(j.result()[2]) for j in jobs], [200_000] * 5)
        same(server.connections, 2, "connections:")


def idle_closed(way):
    def handle(peer, event):
        if isinstance(event, ev.StreamEnded):
            peer.answer(event.stream_id, b"ok")
            peer.flush()
            if way == "goaway":
                peer.raw(goaway(event.stream_id))
            time.sleep(0.01)  # the answer is not what is to be lost
            if way == "reset":
                peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(peer.sock.detach())
            else:
                peer.close()

    with H2Server(handle) as server, Gateway(server.port) as gateway:
        for i in range(20):
            method = ("GET", "POST")[i % 2]
            same(ask(gateway, "/", method, b"x" if method == "POST" else None)[0], 200, f"request {i}")
            time.sleep(0.05)
        return f"{server.connections} connections for 20"


for way in ("goaway", "close", "reset"):

    def closed_between(way=way):
        return idle_closed(way)

    closed_between.__name__ = f"a_connection_closed_between_requests_by_{way}_costs_none"
    case(closed_between)


@both
def nghttpd_that_restarts_is_found_again(service):
    port = free_port()
    how = [str(port), KEY, CERT] if service is TLS else ["--no-tls", str(port)]
    with tempfile.TemporaryDirectory() as folder, Gateway(port, service) as gateway:
        with open(f"{folder}/x", "wb") as f:
            f.write(b"hello")
        same(ask(gateway, "/x")[0], 502)
        for _ in range(3):
            with program("nghttpd", "-d", folder, *how, port=port):
                for _ in range(5):
                    same(ask(gateway, "/x", "POST", b"hello")[0], 200)
            same(ask(gateway, "/x")[0], 502)


# Flow control.


@case
def small_windows_slow_an_upload_and_lose_nothing():
    got = [0]

    def handle(peer, event):
        peer.acknowledge = False
        if isinstance(event, ev.DataReceived):
            got[0] += len(event.data)
            more = len(event.data).to_bytes(4, "big")
            peer.raw((frame(8, 0, event.stream_id, more) + frame(8, 0, 0, more)) if event.data else b"")
        if isinstance(event, ev.StreamEnded):
            peer.answer(event.stream_id, str(got[0]).encode())

    with H2Server(handle, settings={S.INITIAL_WINDOW_SIZE: 100}) as server, Gateway(server.port) as gateway:
        for i in range(10):
            got[0] = 0
            same(ask(gateway, "/", "POST", bytes(5_000), timeout=30)[2], b"5000", server.faults)


@case
def an_upload_that_the_service_does_not_take_ends_in_time_and_spoils_nothing_else():
    def handle(peer, event):
        peer.acknowledge = False
        if isinstance(event, ev.StreamEnded):
            peer.answer(event.stream_id, b"ok")

    with (
        H2Server(handle) as server,
        Gateway(server.port, OPEN + ", timeouts: { read: 2s, write: 1s }") as gateway,
        ThreadPoolExecutor(1) as pool,
    ):
        ask(gateway)
        started = time.monotonic()
        stalled = pool.submit(ask, gateway, "/", "POST", bytes(4 << 20), (), 30)
        time.sleep(0.3)
        same([ask(gateway)[0] for _ in range(5)], [200] * 5, "others meanwhile:")
        try:
            status, _, body = stalled.result()
        except OSError as e:
            status, body = 0, repr(e).encode()
        took = time.monotonic() - started
        assert took < 5, f"{status} after {took:.1f} s"
        same((status, body[-60:]), (504, body[-60:]))
        return f"{status} after {took:.1f} s"


@both
def a_client_that_reads_late_holds_up_no_other(service):
    """One connection to the service for both: its window must not be filled by the one who does not read."""

    def answer(peer, stream, head):
        peer.answer(stream, bytes(8 << 20) if head[":path"] == "/large" else b"x" * 30_000)

    with H2Server(on_head(answer), service is TLS) as server, Gateway(server.port, service) as gateway:
        ask(gateway)
        late = []
        for _ in range(3):
            sock = socket.create_connection(("127.0.0.1", gateway.plain))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            late.append(sock)
            time.sleep(0.1)  # so that they share a connection
        time.sleep(1)
        started = time.monotonic()
        for i in range(10):
            try:
                same(len(ask(gateway, timeout=5)[2]), 30_000)
            except TimeoutError:
                window = server.peers[0].h2.outbound_flow_control_window
                raise AssertionError(
                    f"request {i} of another client had no answer in 5 s; {server.connections} connections; "
                    f"the first one's window has {window} bytes left"
                ) from None
        took = time.monotonic() - started
        for sock in late:
            sock.close()
        return f"10 others in {took:.2f} s, {server.connections} connections"


@case
def a_stream_that_is_not_read_holds_up_no_other_of_its_client():
    """The same with one h2 client: its window for the first stream stays shut."""

    def answer(peer, stream, head):
        peer.answer(stream, bytes(8 << 20) if head[":path"] == "/large" else b"x" * 30_000)

    with H2Server(on_head(answer)) as server, Gateway(server.port) as gateway:
        ask(gateway)
        client = h2_client(gateway)
        client.acknowledge = False
        client.h2.increment_flow_control_window(8 << 20)
        request(client, 1, "/large")
        time.sleep(0.5)
        for i in range(10):
            request(client, 3 + 2 * i)
        client.sock.settimeout(5)
        got = collect(client, range(3, 23, 2))
        same({a["body"] for a in got.values()}, {30_000})


@case
def an_upload_that_waits_holds_up_no_other_of_its_client():
    """A service does not take the first stream's body; the second goes to the same service."""

    def handle(peer, event):
        if isinstance(event, ev.RequestReceived):
            peer.paths = {**getattr(peer, "paths", {}), event.stream_id: dict(event.headers)[":path"]}
            peer.acknowledge = False
        elif isinstance(event, ev.DataReceived) and peer.paths[event.stream_id] != "/stalled":
            peer.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, ev.StreamEnded):
            peer.answer(event.stream_id, b"ok")

    def opened(peer):
        peer.h2.increment_flow_control_window(16 << 20)
        peer.flush()

    with H2Server(handle, opened=opened) as server, Gateway(server.port, OPEN + ", timeouts: { write: 20s, read: 20s }") as gateway:
        ask(gateway)
        client = h2_client(gateway)
        request(client, 1, "/stalled", "POST", end=False)
        client.body(1, iter([bytes(16384)] * 64))
        reader = {}

        def read():
            with contextlib.suppress(AssertionError):
                reader.update(collect(client, range(3, 13, 2)))

        thread = threading.Thread(target=read)
        thread.start()
        time.sleep(1)
        client.sock.settimeout(5)
        for i in range(5):
            request(client, 3 + 2 * i, "/", "POST", end=False)
            client.body(3 + 2 * i, iter([bytes(16384)] * 8))
        thread.join(6)
        assert len(reader) == 5, (
            f"the others had no answer within 6 s; the connection's window has {client.h2.outbound_flow_control_window} bytes left"
        )


@both
def a_hundred_mib_both_ways_take_no_memory(service):
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/big", "wb") as f:
            f.truncate(100 << 20)
        how = [str(port), KEY, CERT] if service is TLS else ["--no-tls", str(port)]
        with program("nghttpd", "--echo-upload", "-d", folder, *how, port=port), Gateway(port, service, route="body_bytes: 0") as gateway:
            plain, seen = ["--http1.1", f"http://127.0.0.1:{gateway.plain}"], []
            h2 = [
                "--http2",
                "--cacert",
                os.path.join(os.path.dirname(CERT), "ca.pem"),
                "--resolve",
                f"localhost:{gateway.tls}:127.0.0.1",
                f"https://localhost:{gateway.tls}",
            ]
            before = gateway.rss()
            for *flags, url in (plain, h2):
                for upload in ([], ["-T", f"{folder}/big", "-X", "POST"]):
                    started = time.monotonic()
                    out = subprocess.run(
                        ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", *flags, *upload, f"{url}/big"],
                        capture_output=True,
                        text=True,
                        timeout=120,
                    )
                    same(out.stdout, f"200 {100 << 20}", f"{flags[0]} {upload[:1]} {out.stderr}")
                    seen.append(f"{time.monotonic() - started:.1f} s")
            grown = gateway.rss(peak=True) - before
            assert grown < 40, f"{grown} MiB more; {seen}"
            return f"peak {grown} MiB above the start; download, echo over h1, then over h2: {seen}"


@case
def an_upload_to_a_service_that_takes_it_slowly_takes_no_memory():
    def handle(peer, event):
        if isinstance(event, ev.DataReceived):
            time.sleep(0.001)
        if isinstance(event, ev.StreamEnded):
            peer.answer(event.stream_id, b"ok")

    with H2Server(handle) as server, Gateway(server.port, route="body_bytes: 0") as gateway:
        before = gateway.rss()
        for protocol in ("--http1.1", "--http2-prior-knowledge"):
            with tempfile.NamedTemporaryFile() as f:
                f.truncate(30 << 20)
                out = subprocess.run(
                    ["curl", "-sS", protocol, "-T", f.name, "-X", "POST", f"http://127.0.0.1:{gateway.plain}/"],
                    capture_output=True,
                    timeout=90,
                )
                same(out.stdout, b"ok", out.stderr)
        grown = gateway.rss(peak=True) - before
        assert grown < 24, f"{grown} MiB more"
        return f"peak {grown} MiB above the start"


# Answers that break off, and those that are wrong.


def breaking(name, act, *clients):
    """The client has to see that it has not got all."""

    def run():
        def answer(peer, stream, _):
            act(peer, stream)

        with H2Server(on_head(answer)) as server, Gateway(server.port) as gateway:
            ask_quietly(gateway)
            seen = [broken(lambda: ask(gateway))]
            client = h2_client(gateway)
            request(client, 1)
            got = collect(client, [1])[1]
            whole = got["reset"] is None and got["heads"][-1][":status"] < "500"
            assert not whole, f"a whole answer over h2: {got}"
            return [*seen, {k: v for k, v in got.items() if k in ("body", "reset")}]

    run.__name__ = f"an_answer_that_is_broken_by_{name}"
    case(run)


def ask_quietly(gateway):
    with contextlib.suppress(Exception):
        ask(gateway)


def begun(peer, stream, *fields):
    peer.head(stream, [(":status", "200"), *fields])
    peer.h2.send_data(stream, b"hello")
    peer.flush()
    time.sleep(0.1)


breaking("rst_stream", lambda p, s: (begun(p, s), p.h2.reset_stream(s, 2)))
breaking("rst_stream_with_a_length", lambda p, s: (begun(p, s, ("content-length", "100")), p.h2.reset_stream(s, 2)))
breaking("rst_stream_no_error", lambda p, s: (begun(p, s), p.h2.reset_stream(s, 0)))
breaking("rst_stream_cancel", lambda p, s: (begun(p, s), p.h2.reset_stream(s, 8)))
breaking("rst_stream_behind_the_head", lambda p, s: (p.head(s, [(":status", "200")]), p.h2.reset_stream(s, 2)))
breaking("close", lambda p, s: (begun(p, s), p.close()))
breaking("close_behind_the_head", lambda p, s: (p.head(s, [(":status", "200")]), p.close()))
breaking("goaway_and_close", lambda p, s: (begun(p, s), p.raw(goaway(s)), p.close()))
breaking("goaway_with_an_error", lambda p, s: (begun(p, s), p.raw(goaway(0, 2)), p.close()))
breaking("a_length_too_long", lambda p, s: (begun(p, s, ("content-length", "100")), p.raw(frame(0, 1, s, b"!"))))
breaking("a_length_too_short", lambda p, s: (begun(p, s, ("content-length", "3")), p.raw(frame(0, 1, s, b"!"))))
breaking(
    "a_length_without_a_body", lambda p, s: p.raw(frame(1, 5, s, p.h2.encoder.encode([(":status", "200"), ("content-length", "100")])))
)
breaking("garbage", lambda p, s: (begun(p, s), p.raw(b"\xff" * 100)))
breaking(
    "a_frame_too_large",
    lambda p, s: (begun(p, s), p.raw((1 << 23).to_bytes(3, "big") + bytes([0, 0]) + s.to_bytes(4, "big") + bytes(1 << 16))),
)
breaking("a_window_update_of_nothing", lambda p, s: (begun(p, s), p.raw(frame(8, 0, 0, bytes(4)))))
breaking("a_window_beyond_its_maximum", lambda p, s: (begun(p, s), p.raw(frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2)))
breaking("data_behind_its_end", lambda p, s: (begun(p, s, ("content-length", "9")), p.raw(frame(0, 1, s, b"!") + frame(0, 1, s, b"more"))))


def wrong(name, fields, then=b"", expected=(502,)):
    """A head that is no HTTP: an answer of 5xx, and no other request suffers."""

    def run():
        def answer(peer, stream, head):
            if head[":path"] == "/good":
                return peer.answer(stream, b"good")
            peer.raw(frame(1, 4 if then else 5, stream, peer.h2.encoder.encode(fields)) + (frame(0, 1, stream, then) if then else b""))

        with H2Server(on_head(answer)) as server, Gateway(server.port) as gateway:
            same(ask(gateway, "/good")[2], b"good")
            status, got, body = ask(gateway)
            assert status in expected, f"{status} {got} {body[:80]}"
            same(ask(gateway, "/good")[2], b"good")
            client = h2_client(gateway)
            request(client, 1)
            over_h2 = collect(client, [1])[1]
            assert over_h2["heads"] and int(over_h2["heads"][-1][":status"]) in expected, over_h2
            return f"{status} {body[-60:] if status > 499 else got}"

    run.__name__ = f"a_head_with_{name}"
    return case(run)


OK = (":status", "200")
wrong("no_status", [("x-a", "1")], b"x")
wrong("two_statuses", [OK, (":status", "204")], b"x")
wrong("a_status_that_is_none", [(":status", "abc")], b"x")
known("it is taken without it")(wrong("a_request_pseudo_header", [OK, (":path", "/")], b"x"))
wrong("a_name_in_capitals", [OK, ("X-Upper", "1")], b"x")
wrong("connection_close", [OK, ("connection", "close")], b"x")
wrong("transfer_encoding", [OK, ("transfer-encoding", "chunked")], b"x")
wrong("a_line_break_in_a_value", [OK, ("x-a", "1\r\nx-b: 2")], b"x")
wrong("a_nul_in_a_value", [OK, ("x-a", "1\0")], b"x")
wrong("two_lengths", [OK, ("content-length", "1"), ("content-length", "2")], b"x")
wrong("a_length_that_is_none", [OK, ("content-length", "1x")], b"x")
wrong("status_101", [(":status", "101")], b"x")


@case
def a_204_with_a_body_gives_no_body():
    def answer(peer, stream, _):
        peer.raw(frame(1, 4, stream, peer.h2.encoder.encode([(":status", "204")])) + frame(0, 1, stream, b"HTTP/1.1 200 OK\r\n\r\n"))

    with H2Server(on_head(answer)) as server, Gateway(server.port) as gateway:
        with socket.create_connection(("127.0.0.1", gateway.plain), timeout=2) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            got = b""
            with contextlib.suppress(TimeoutError):
                while data := sock.recv(4096):
                    got += data
        assert got.count(b"HTTP/1.1") == 1, got
        return got.split(b"\r\n")[0]


@case
def head_and_304_end_without_a_body():
    def answer(peer, stream, head):
        status = "304" if head[":path"] == "/304" else "200"
        peer.head(stream, [(":status", status), ("content-length", "100"), ("etag", '"x"')], True)

    with H2Server(on_head(answer)) as server, Gateway(server.port) as gateway:
        for method, target, expected in (("HEAD", "/", 200), ("GET", "/304", 304)):
            status, got, body = ask(gateway, target, method)
            same((status, body, got.get("etag")), (expected, b"", '"x"'))
            client = h2_client(gateway)
            request(client, 1, target, method)
            answer = collect(client, [1])[1]
            same((answer["heads"][-1][":status"], answer["reset"], answer["body"]), (str(expected), None, 0))


@case
def trailers_reach_h2_clients_and_do_not_trouble_h1():
    def answer(peer, stream):
        peer.answer(stream, b"hello", trailers=[("x-sum", "7"), ("x-list", "a"), ("x-list", "b"), ("x-end", "")])

    with H2Server(on_end(answer)) as server, Gateway(server.port) as gateway:
        client = h2_client(gateway)
        request(client, 1)
        got = collect(client, [1])[1]
        same((got["trailers"] or {}).get("x-sum"), "7")
        same(ask(gateway)[2], b"hello")
        request(client, 3)
        same(collect(client, [3])[3]["body"], 5)


@case
@known("they are not passed on")
def trailers_of_an_h2_request_reach_the_service():
    seen = []

    def handle(peer, event):
        if isinstance(event, ev.TrailersReceived):
            seen.append(dict(event.headers))
        if isinstance(event, ev.StreamEnded):
            peer.answer(event.stream_id, b"ok")

    with H2Server(handle) as server, Gateway(server.port) as gateway:
        client = h2_client(gateway)
        request(client, 1, "/", "POST", end=False)
        client.body(1, [b"hello"], lambda: client.h2.send_headers(1, [("x-sum", "7")], end_stream=True))
        same(collect(client, [1])[1]["heads"][0][":status"], "200")
        same(seen, [{"x-sum": "7"}], "trailers at the service:")


@case
@known("they are not passed on")
def interim_answers():
    def answer(peer, stream, _):
        peer.head(stream, [(":status", "103"), ("link", "</a.css>; rel=preload")])
        time.sleep(0.2)
        peer.answer(stream, b"ok")

    with H2Server(on_head(answer)) as server, Gateway(server.port) as gateway:
        with socket.create_connection(("127.0.0.1", gateway.plain), timeout=5) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            got = b""
            while data := sock.recv(4096):
                got += data
        same(got.count(b"HTTP/1.1 200"), 1, "final answers:")
        assert got.startswith(b"HTTP/1.1 103"), "the 103 is lost on its way to an HTTP/1 client"


@case
def interim_answers_without_end_are_ended():
    def answer(peer, stream, _):
        with contextlib.suppress(OSError):
            for _ in range(20_000):
                peer.h2.send_headers(stream, [(":status", "103"), ("link", "</a.css>")])
                peer.sock.sendall(peer.h2.data_to_send())

    with H2Server(on_head(answer)) as server, Gateway(server.port, OPEN + ", timeouts: { read: 2s }") as gateway:
        started = time.monotonic()
        status = ask(gateway, timeout=15)[0]
        same(status in (502, 504), True, status)
        assert time.monotonic() - started < 6, "too late"
        return f"{status} after {time.monotonic() - started:.1f} s"


@case
def a_client_that_waits_for_100_is_told():
    def handle(peer, event):
        if isinstance(event, ev.RequestReceived):
            peer.head(event.stream_id, [(":status", "100")])
        if isinstance(event, ev.StreamEnded):
            peer.answer(event.stream_id, b"ok")

    with (
        H2Server(handle) as server,
        Gateway(server.port) as gateway,
        socket.create_connection(("127.0.0.1", gateway.plain), timeout=3) as sock,
    ):
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        try:
            same(sock.recv(4096).split(b"\r\n")[0], b"HTTP/1.1 100 Continue")
        except TimeoutError:
            raise AssertionError("no 100 within 3 s") from None
        sock.sendall(b"hello")
        same(sock.recv(4096).split(b"\r\n")[0], b"HTTP/1.1 200 OK")


def early(peer, stream, _):
    """RFC 9113, 8.1: an answer, then RST_STREAM with NO_ERROR: the rest of the body is not wanted."""
    peer.answer(stream, b"too large", "413")
    peer.h2.reset_stream(stream, 0)


def early_answers(service, *command):
    with H2Server(on_head(early), service is TLS) as server, Gateway(server.port, service) as gateway, tempfile.NamedTemporaryFile() as f:
        f.truncate(8 << 20)
        words = [word.replace("FILE", f.name) for word in command]
        runs = [
            subprocess.run([*words, f"http://127.0.0.1:{gateway.plain}/"], capture_output=True, text=True, timeout=30) for _ in range(15)
        ]
        return tally([run.stdout.strip() + run.stderr.strip() for run in runs])


@both
def an_early_answer_to_an_upload_arrives_over_h1(service):
    """A client that goes on sending must not be reset: the answer may be lost with it."""
    with H2Server(on_head(early), service is TLS) as server, Gateway(server.port, service) as gateway:
        seen = []
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", gateway.plain), timeout=10) as sock:
                sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2097152\r\n\r\n")
                sent, got, error = 0, b"", None
                try:
                    for _ in range(32):
                        sock.sendall(bytes(65536))
                        sent += 65536
                    while data := sock.recv(65536):
                        got += data
                except OSError as e:
                    error = type(e).__name__
            seen.append((got[9:12], b"too large" in got, error))
        same(tally(seen), {(b"413", True, None): 10})


@both
def an_early_answer_to_an_upload_arrives_over_h2(service):
    got = early_answers(service, "nghttp", "-d", "FILE")  # curl 7.88 loses it by itself
    same(got, {"too large": 15})


@case
def a_client_that_leaves_resets_its_stream_only():
    resets = []

    def handle(peer, event):
        if isinstance(event, ev.RequestReceived):
            peer.answer(event.stream_id, bytes(50 << 20) if dict(event.headers)[":path"] == "/large" else b"ok")
        if isinstance(event, ev.StreamReset):
            resets.append(event.error_code)
            peer.waiting.pop(event.stream_id, None)

    with H2Server(handle) as server, Gateway(server.port) as gateway:
        ask(gateway)
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", gateway.plain)) as sock:
                sock.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
                sock.recv(1000)
            client = h2_client(gateway)
            request(client, 1, "/large")
            time.sleep(0.1)
            client.h2.reset_stream(1, 8)
            client.flush()
            same(ask(gateway)[2], b"ok")
        until("the resets", lambda: len(resets) >= 10, 5)
        until("an end", lambda: not gateway.metric("frontdesk_in_flight"), 5)
        return f"codes {resets}, {server.connections} connections"


# Liveness.


@case
def a_ping_is_answered():
    answered = threading.Event()

    def handle(peer, event):
        if isinstance(event, ev.PingAckReceived):
            answered.set()
        if isinstance(event, ev.StreamEnded):
            peer.answer(event.stream_id, b"ok")
            peer.h2.ping(b"12345678")

    with H2Server(handle) as server, Gateway(server.port) as gateway:
        ask(gateway)
        assert answered.wait(3)
        for _ in range(200):
            server.peers[0].h2.ping(b"12345678")
        server.peers[0].flush()
        same(ask(gateway)[2], b"ok")


def dead(reads):
    """Answers one request, then nothing more on that connection; new connections are well."""

    def handle(peer, event):
        if isinstance(event, ev.StreamEnded):
            if peer.number == 1 and event.stream_id > 1:
                if not reads:
                    threading.Event().wait(60)
                return
            peer.answer(event.stream_id, b"ok")

    return handle


@case
def a_connection_that_went_dead_is_left():
    with H2Server(dead(False)) as server, Gateway(server.port, OPEN + ", timeouts: { read: 1s }") as gateway:
        ask(gateway)
        statuses = [ask(gateway, "/", "POST", b"x")[0] for _ in range(4)]
        same(statuses, [504, 200, 200, 200])


@case
def what_is_no_http2_is_said_at_once():
    for greeting in (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"", None):
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve(greeting=greeting, listener=listener):
                with contextlib.suppress(OSError):
                    while True:
                        sock, _ = listener.accept()
                        if greeting is None:
                            threading.Event().wait(5)
                        sock.recv(1000)
                        sock.sendall(greeting)
                        sock.close()

            threading.Thread(target=serve, daemon=True).start()
            with Gateway(listener.getsockname()[1], OPEN + ", timeouts: { read: 1s, connect: 1s }") as gateway:
                started = time.monotonic()
                status = ask(gateway)[0]
                took = time.monotonic() - started
                assert status in ((504,) if greeting is None else (502,)) and took < 3, f"{greeting}: {status} after {took:.1f} s"


@case
def a_tls_service_without_h2_in_alpn():
    """`protocol: h2` towards a server that speaks HTTP/1.1 only: an answer or a 502, at once."""
    from real import tls_server

    with socket.create_server(("127.0.0.1", 0)) as listener:
        context = tls_server()

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as secure:
                        secure.recv(4000)
                        secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        threading.Thread(target=serve, daemon=True).start()
        with Gateway(listener.getsockname()[1], TLS) as gateway:
            status, _, body = ask(gateway)
            assert (status, body) == (200, b"ok") or status == 502, status
            return f"{status} {body[-80:]}"


# Heads.


@case
def huge_heads():
    def handle(peer, event):
        if isinstance(event, ev.StreamEnded):
            peer.answer(event.stream_id, b"own", "431")

    with H2Server(handle) as server, Gateway(server.port) as gateway:
        status, _, body = ask(gateway, headers={"x-a": "v" * 20_000})
        same((status, body), (431, b"own"), "the service's own:")
        for headers in ({"x-a": "v" * 40_000}, {f"x-{i}": "v" for i in range(200)}):
            status, _, body = ask(gateway, headers=headers)
            assert status == 431 and b"header_too_large" in body, (status, body)
    sizes = {}

    def answer(peer, stream, head):
        n = int(head[":path"][1:])
        peer.answer(stream, b"ok", fields=[(f"x-{i}", "v" * 1000) for i in range(n)])

    with H2Server(on_head(answer)) as server, Gateway(server.port) as gateway:
        for n in (1, 10, 30, 60, 200, 1000):
            with socket.create_connection(("127.0.0.1", gateway.plain), timeout=10) as sock:
                sock.sendall(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n)
                sizes[f"{n} KB"] = int(sock.recv(4096).split()[1])
            same(ask(gateway, "/1")[0], 200, f"the next one behind {n} KB:")
    same([sizes[f"{n} KB"] for n in (1, 10, 30)], [200] * 3)
    same(sizes["1000 KB"], 502, f"an answer's head without bounds, {sizes}:")
    return sizes


@case
def a_small_header_list_limit_of_the_service():
    with H2Server(plainly, settings={S.MAX_HEADER_LIST_SIZE: 2000}) as server, Gateway(server.port) as gateway:
        same(ask(gateway)[0], 200)
        status, _, body = ask(gateway, headers={"x-a": "v" * 5000})
        same(ask(gateway)[0], 200, "the next one:")
        return f"5 KB towards a limit of 2 KB: {status} {body[-80:]}"


@case
def a_push_is_not_wanted_and_harms_nothing():
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("x", "y"):
            with open(f"{folder}/{name}", "wb") as f:
                f.write(b"hello")
        with (
            program("nghttpd", "--no-tls", "-p/x=/y", "-b100", "--trailer", "x-sum: 7", "-d", folder, str(port), port=port),
            Gateway(port) as gateway,
        ):
            same([ask(gateway, "/x")[2] for _ in range(5)], [b"hello"] * 5, "padded, with a trailer, and a push:")


@both
def a_drain_lets_streams_finish(service):
    waiting = []

    def handle(peer, event):
        if isinstance(event, ev.StreamEnded):
            waiting.append((peer, event.stream_id))

    with H2Server(handle, service is TLS) as server, Gateway(server.port, service) as gateway, ThreadPoolExecutor(10) as pool:
        jobs = [pool.submit(ask, gateway, f"/{i}") for i in range(10)]
        until("the streams", lambda: len(waiting) == 10)
        gateway.reload()
        gateway.signal(signal.SIGTERM)
        time.sleep(1)
        for peer, stream in waiting:
            peer.answer(stream, b"x" * 100_000)
        same([len(j.result()[2]) for j in jobs], [100_000] * 10)
        same(gateway.process.wait(10), 0)


main()
