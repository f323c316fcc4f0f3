#!/usr/bin/env python3
"""WebSockets with real libraries on both ends, and the frames of Autobahn's cases byte for byte.

usage: websocket_real.py BINARY [WORD...]; needs: pip install websockets aiohttp h2
"""

import asyncio
import contextlib
import http.client
import logging
import os
import signal
import socket
import ssl
import struct
import threading
import time

import aiohttp
import aiohttp.web
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Response
from websockets.datastructures import Headers

from real import CA, Gateway, H2Peer, case, main, same, tls_client, tls_server, until

OPEN = "protocol: http1"
DEFLATE = "permessage-deflate"
logging.disable()  # the libraries' own words about closed connections


async def echo(ws):
    async for message in ws:
        await ws.send(message)


def tunnel(service=OPEN, server="", handler=echo, tls=False, more=None, route=""):
    """A case with a library's server behind the gateway: gets the URL, the gateway, and the server's connections."""

    def wrap(f):
        async def go():
            seen = []

            async def noted(ws):
                seen.append(ws)
                await handler(ws)

            options = {"max_size": None, "ping_interval": None, "open_timeout": 20, **(more or {})}
            async with serve(noted, "127.0.0.1", 0, ssl=tls_server() if tls else None, **options) as backend:
                port = backend.sockets[0].getsockname()[1]
                with Gateway(port, service, server, route) as gateway:
                    return await f(f"ws://127.0.0.1:{gateway.plain}/chat?room=1", gateway, seen)

        def run():
            return asyncio.run(asyncio.wait_for(go(), 90))

        run.__name__ = f.__name__
        return case(run)

    return wrap


def dial(url, **more):
    return connect(url, proxy=None, max_size=None, ping_interval=None, open_timeout=20, **more)


async def ended(ws, patience=5):
    """The code and reason with which a connection ends."""
    try:
        while True:
            await asyncio.wait_for(ws.recv(), patience)
    except ConnectionClosed:
        return ws.close_code, ws.close_reason


@tunnel()
async def text_binary_and_fragments(url, _, __):
    async with dial(url) as ws:
        for message in ("", "hello", "ü" * 40_000, b"", bytes(range(256)) * 1000):
            await ws.send(message)
            same(await ws.recv(), message)
        await ws.send(["a", "", "bc", "d" * 70_000])
        same(await ws.recv(), "abc" + "d" * 70_000)


@tunnel()
async def pings_and_pongs_both_ways(url, _, seen):
    async with dial(url) as ws:
        await (await ws.ping(b"from the client"))
        await (await seen[0].ping(b"from the service"))
        await ws.pong(b"unasked")
        await ws.send("still here")
        same(await ws.recv(), "still here")


@tunnel()
async def close_codes_of_the_client(url, _, seen):
    for code, reason in ((1000, ""), (1001, "going"), (1008, "ünicode"), (1011, "x" * 123), (3000, ""), (4999, "own")):
        async with dial(url) as ws:
            await ws.close(code, reason)
            same((ws.close_code, ws.close_reason), (code, reason), "echoed")
        await seen[-1].wait_closed()
        same((seen[-1].protocol.close_rcvd.code, seen[-1].protocol.close_rcvd.reason), (code, reason), "at the service")


@tunnel()
async def close_codes_of_the_service(url, _, seen):
    for code, reason in ((1000, ""), (1001, "going"), (1012, "restart"), (1013, "later"), (4000, "own ü")):
        async with dial(url) as ws:
            await seen[-1].close(code, reason)
            same(await ended(ws), (code, reason))


@tunnel()
async def ends_without_a_close_frame_are_1006(url, gateway, seen):
    async with dial(url) as ws:
        seen[-1].transport.abort()
        same((await ended(ws))[0], 1006)
    ws = await dial(url)
    ws.transport.abort()
    await asyncio.wait_for(seen[-1].wait_closed(), 5)
    same(seen[-1].close_code, 1006)
    for _ in range(100):
        if gateway.metric("frontdesk_in_flight") == 0:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("requests in flight are left over")


@tunnel(route="body_bytes: 1KiB")
async def messages_of_16_mib(url, gateway, _):
    before = gateway.rss()
    for message in (os.urandom(16 << 20), "0123456789abcdef" * (1 << 20)):
        async with dial(url, compression=None) as ws:
            await ws.send(message)
            assert await ws.recv() == message
    grown = gateway.rss(peak=True) - before
    assert grown < 24, f"{grown} MiB more"
    return f"peak {grown} MiB above the start"


async def flood(ws):
    with contextlib.suppress(ConnectionClosed):
        for _ in range(128):
            await ws.send(bytes(1 << 20))


@tunnel(handler=flood, more={"compression": None})
async def a_client_that_reads_late_takes_no_memory(url, gateway, _):
    before = gateway.rss()
    async with dial(url, compression=None, max_queue=1) as ws:
        await asyncio.sleep(2)
        grown = gateway.rss() - before
        got = 0
        for _ in range(128):
            got += len(await ws.recv())
    same(got, 128 << 20)
    assert grown < 16, f"{grown} MiB more"
    return f"{grown} MiB more while it waited"


@tunnel()
async def deflate_is_negotiated_end_to_end(url, _, seen):
    async with dial(url) as ws:
        same([e.name for e in ws.protocol.extensions], [DEFLATE])
        same([e.name for e in seen[-1].protocol.extensions], [DEFLATE])
        for message in ("a" * 1_000_000, "b" * 10, "a" * 1_000_000):
            await ws.send(message)
            same(await ws.recv(), message)
        same(ws.response.headers["Sec-WebSocket-Extensions"].split(";")[0], DEFLATE)
    async with dial(url, compression=None) as ws:
        same((ws.protocol.extensions, seen[-1].protocol.extensions), ([], []))
        assert "Sec-WebSocket-Extensions" not in ws.response.headers


@tunnel(more={"compression": None})
async def deflate_that_the_service_does_not_want_is_none(url, _, __):
    async with dial(url) as ws:
        same(ws.protocol.extensions, [])
        await ws.send("x")
        same(await ws.recv(), "x")


@tunnel(more={"subprotocols": ["b", "c"]})
async def subprotocols(url, _, seen):
    async with dial(url, subprotocols=["a", "b", "c"]) as ws:
        same((ws.subprotocol, seen[-1].subprotocol), ("b", "b"))
        same(seen[-1].request.headers.get_all("Sec-WebSocket-Protocol"), ["a, b, c"])


@tunnel()
async def the_services_handshake_is_the_clients(url, gateway, seen):
    headers = {"Origin": "https://app.example", "Cookie": "sid=1; x=2", "Authorization": "Bearer t", "X-Own": "ü"}
    async with dial(url, additional_headers=headers, user_agent_header="mine/1") as ws:
        got, sent = seen[-1].request, ws.request
        for name in (
            "Sec-WebSocket-Key",
            "Sec-WebSocket-Version",
            "Sec-WebSocket-Extensions",
            "Host",
            "Origin",
            "Cookie",
            "Authorization",
            "X-Own",
            "User-Agent",
        ):
            same(got.headers.get_all(name), sent.headers.get_all(name), name)
        same(got.path, "/chat?room=1")
        same(got.headers.get_all("X-Forwarded-For"), ["127.0.0.1"])


@tunnel(server="max_connections: 2000")
async def five_hundred_at_once(url, gateway, seen):
    before = gateway.rss()
    sockets = await asyncio.gather(*(dial(url, compression=None) for _ in range(500)))
    grown = gateway.rss() - before

    async def talk(i, ws):
        for n in range(10):
            await ws.send(f"{i} {n}")
            same(await ws.recv(), f"{i} {n}")

    await asyncio.gather(*(talk(i, ws) for i, ws in enumerate(sockets)))
    same(gateway.metric("frontdesk_in_flight"), 500)
    await asyncio.gather(*(ws.close() for ws in sockets))
    same({ws.close_code for ws in sockets}, {1000})
    for _ in range(100):
        if gateway.metric("frontdesk_in_flight") == 0:
            return f"{grown * 1024 // 500} KiB each"
        await asyncio.sleep(0.05)
    raise AssertionError("requests in flight are left over")


@tunnel(service=OPEN + ", timeouts: { read: 1s }", server="timeouts: { request_body: 300ms, keepalive: 300ms, client_write: 300ms }")
async def idle_ones_end_and_pings_keep_them(url, gateway, seen):
    async with dial(url) as idle, dial(url) as pinged, dial(url) as fed:
        feeder = seen[-1]
        started = time.monotonic()

        async def keep():
            for _ in range(8):
                await (await pinged.ping())
                await feeder.send("tick")
                await asyncio.sleep(0.4)

        task = asyncio.create_task(keep())
        same((await ended(idle))[0], 1006)
        took = time.monotonic() - started
        assert 0.9 < took < 2.5, f"ended after {took:.2f} s"
        await task
        for ws in (pinged, fed):
            await ws.send("x")
            while await ws.recv() != "x":
                pass
    return f"ended after {took:.2f} s of silence, read: 1s"


@tunnel(service=OPEN + ", timeouts: { total: 300ms }", server="timeouts: { request_header: 300ms, request_body: 300ms, keepalive: 300ms }")
async def no_other_timeout_ends_one(url, _, __):
    async with dial(url) as ws:
        for _ in range(2):
            await asyncio.sleep(1)
            await ws.send("x")
            same(await ws.recv(), "x")


def refused(status, *headers, body=b""):
    async def refuse(_, __):
        return Response(status, "Own Reason", Headers([("Content-Length", str(len(body))), *headers]), body)

    async def run(_, gateway, __):
        connection = http.client.HTTPConnection("127.0.0.1", gateway.plain, timeout=5)
        connection.request(
            "GET",
            "/chat",
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            },
        )
        answer = await asyncio.to_thread(connection.getresponse)
        same((answer.status, answer.reason, answer.read()), (status, "Own Reason", body))
        for name, value in headers:
            same(answer.headers.get_all(name), [value], name)
        line = gateway.access(1)[0]
        same((line["status"], line["code"]), (status, ""))

    run.__name__ = f"refused_with_{status}"
    tunnel(more={"process_request": refuse})(run)


refused(403, ("X-Why", "because"), ("Content-Type", "text/plain"), body=b"no entry")
refused(404, body=b"nothing here")
refused(401, ("WWW-Authenticate", "Basic realm=x"), body=b"who?")
refused(500)
refused(503, ("Retry-After", "7"), body=b"later")
refused(302, ("Location", "https://elsewhere.example/"))
refused(426, ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), body=b"old")  # RFC 9110, 15.5.22: with Upgrade


@tunnel(tls=True, service="protocol: http1, TLS")
async def over_tls_on_both_sides(_, gateway, seen):
    for context in (tls_client(["http/1.1"]), ssl.create_default_context(cafile=CA)):
        async with dial(f"wss://localhost:{gateway.tls}/chat", ssl=context, host="127.0.0.1") as ws:
            for message in ("hello", os.urandom(1 << 20)):
                await ws.send(message)
                assert await ws.recv() == message
            await (await ws.ping())
            same(seen[-1].request.headers["X-Forwarded-Proto"], "https")
            await seen[-1].close(4001, "bye")
            same(await ended(ws), (4001, "bye"))


@tunnel()
async def http2_does_not_promise_what_is_not_there(_, gateway, __):
    """RFC 8441: without ENABLE_CONNECT_PROTOCOL a browser opens an HTTP/1.1 connection for its WebSocket."""
    import h2.settings

    with socket.create_connection(("127.0.0.1", gateway.tls)) as tcp, tls_client().wrap_socket(tcp, server_hostname="localhost") as sock:
        peer = H2Peer(sock, True)
        for event in peer.events():
            if type(event).__name__ == "RemoteSettingsChanged":
                same(event.changed_settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL), None)
                return


@tunnel()
async def a_reload_and_a_drain_leave_it_alone(url, gateway, seen):
    async with dial(url) as ws:
        await asyncio.to_thread(gateway.reload)
        await ws.send("reloaded")
        same(await ws.recv(), "reloaded")
        gateway.signal(signal.SIGTERM)
        await asyncio.sleep(1.5)
        await ws.send("draining")
        same(await ws.recv(), "draining")
        assert gateway.process.poll() is None
        await ws.close(1000, "done")
    same(await asyncio.to_thread(gateway.process.wait, 10), 0)


@tunnel(server="drain_timeout: 1s")
async def a_drain_that_is_over_ends_it(url, gateway, seen):
    async with dial(url) as ws:
        started = time.monotonic()
        gateway.signal(signal.SIGTERM)
        code = (await ended(ws))[0]
        took = time.monotonic() - started
    same(await asyncio.to_thread(gateway.process.wait, 10), 0)
    await asyncio.wait_for(seen[-1].wait_closed(), 5)
    assert 0.9 < took < 3, took
    return f"client {code}, service {seen[-1].close_code}, after {took:.1f} s"


@case
def aiohttp_on_both_ends():
    codes = []

    async def handler(request):
        ws = aiohttp.web.WebSocketResponse(protocols=("chat",), heartbeat=0.3)
        await ws.prepare(request)
        async for message in ws:
            if message.type == aiohttp.WSMsgType.TEXT:
                await ws.send_str(message.data)
            elif message.type == aiohttp.WSMsgType.BINARY:
                await ws.send_bytes(message.data)
        codes.append(ws.close_code)
        return ws

    async def go():
        app = aiohttp.web.Application()
        app.router.add_get("/chat", handler)
        runner = aiohttp.web.AppRunner(app)
        await runner.setup()
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        with Gateway(port, OPEN) as gateway:
            async with aiohttp.ClientSession() as session:
                async with session.ws_connect(
                    f"http://127.0.0.1:{gateway.plain}/chat", compress=15, protocols=("x", "chat"), max_msg_size=0
                ) as ws:
                    same((ws.protocol, ws.compress), ("chat", 15))
                    for text in ("hello", "x" * 200_000):
                        await ws.send_str(text)
                        same((await ws.receive()).data, text)
                    for _ in range(5):  # the service's heartbeats are answered meanwhile
                        await asyncio.sleep(0.2)
                        await ws.send_str("x")
                        same((await ws.receive()).data, "x")
                    await ws.send_bytes(b"\0" * 1000)
                    same((await ws.receive()).data, b"\0" * 1000)
                    await ws.close(code=4003, message=b"bye")
                    same((await ws.receive()).type, aiohttp.WSMsgType.CLOSED)
                    same(codes, [4003])
                async with session.get(f"http://127.0.0.1:{gateway.plain}/nothing") as answer:
                    same(answer.status, 404)
        await runner.cleanup()

    asyncio.run(asyncio.wait_for(go(), 30))


# Autobahn's families: what a client sends must arrive byte for byte, and what a service sends too, however wrong it is.


def ws_frame(opcode, payload=b"", fin=True, rsv=0, masked=True, length=None):
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    n = len(payload) if length is None else length
    size = bytes([n]) if n < 126 else b"\x7e" + struct.pack(">H", n) if n < 65536 else b"\x7f" + struct.pack(">Q", n)
    if not masked:
        return bytes([first]) + size + payload
    key = os.urandom(4)
    whole = int.from_bytes(payload, "big") ^ int.from_bytes((key * (len(payload) // 4 + 1))[: len(payload)], "big")
    return bytes([first, size[0] | 0x80]) + size[1:] + key + whole.to_bytes(len(payload), "big")


def pieces(opcode, payload, size, between=b"", **more):
    cuts = [payload[i : i + size] for i in range(0, len(payload), size)] or [b""]
    return b"".join((between if i else b"") + ws_frame(0 if i else opcode, cut, i == len(cuts) - 1, **more) for i, cut in enumerate(cuts))


UTF8 = ["Hello-µ@ßöäüàá-UTF-8!!".encode(), "κόσμε".encode(), b"\xf4\x8f\xbf\xbf", b"\xef\xbf\xbf", b"\xc2\x80", b"\xce\xba\xe1\xbd\xb9"]
NOT_UTF8 = [
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    b"\xf4\x90\x80\x80",
    b"\x80",
    b"\xbf",
    b"\x80\xbf\x80\xbf",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xf8\x80\x80\x80\xaf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xfe\xfe\xff\xff",
    b"\xc0 \xc1 ",
    b"\xf0\x90",
    bytes(range(0x80, 0xC0)),
    b"\xce\xba\xe1\xbd",
]


def families():
    """Family, bytes, and how many of them are written at once (0 for all)."""
    lengths = (0, 1, 125, 126, 127, 128, 65535, 65536)
    for opcode in (1, 2):
        for n in lengths:
            yield 1, ws_frame(opcode, b"*" * n), 0
        yield 1, ws_frame(opcode, b"*" * 65536), 997
        yield 1, ws_frame(opcode, b"*" * 300), 1
    for payload in (b"", b"Hello, world!", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125, b"\xfe" * 126):
        yield 2, ws_frame(9, payload) + ws_frame(8), 0
        yield 2, ws_frame(9, payload), 1
        yield 2, ws_frame(10, payload) + ws_frame(9, b"x"), 0
    yield 2, b"".join(ws_frame(9, b"payload-%d" % i) for i in range(10)), 0
    for rsv in range(1, 8):
        yield 3, ws_frame(1, b"Hello", rsv=rsv) + ws_frame(9), 0
        yield 3, ws_frame(1, b"Hello") + ws_frame(9, b"x", rsv=rsv) + ws_frame(8, rsv=rsv), 1
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield 4, ws_frame(opcode) + ws_frame(1, b"Hello"), 0
        yield 4, ws_frame(1, b"Hello") + ws_frame(opcode, b"reserved opcode payload") + ws_frame(9), 1
    for opcode in (9, 10, 1, 2):
        yield 5, pieces(opcode, b"fragment1fragment2", 9), 0
        yield 5, pieces(opcode, b"fragment1fragment2", 9), 1
    yield 5, pieces(1, b"fragment1fragment2", 9, ws_frame(9, b"ping")), 0
    yield 5, pieces(1, b"fragment1fragment2", 9, ws_frame(9, b"ping")), 1
    yield 5, ws_frame(0, b"non-continuation payload") + ws_frame(1, b"Hello"), 0
    yield 5, ws_frame(0, b"non-continuation payload", fin=False) + ws_frame(1, b"Hello"), 0
    yield 5, ws_frame(1, b"one", fin=False) + ws_frame(1, b"two") + ws_frame(0, b"three"), 0
    yield 5, ws_frame(1, b"", fin=False) + ws_frame(0, b"", fin=False) + ws_frame(0, b""), 0
    for text in UTF8 + NOT_UTF8:
        yield 6, ws_frame(1, text), 0
        yield 6, pieces(1, text, 1), 0
        yield 6, ws_frame(1, text), 1
    for code in (
        *range(1000, 1004),
        1007,
        1008,
        1009,
        1010,
        1011,
        3000,
        3999,
        4000,
        4999,
        0,
        999,
        1004,
        1005,
        1006,
        1016,
        1100,
        2000,
        2999,
        5000,
        65535,
    ):
        yield 7, ws_frame(8, struct.pack(">H", code) + b"why"), 0
    for payload in (b"", b"\x03", b"\x03\xe8" + b"*" * 123, b"\x03\xe8" + b"*" * 124, b"\x03\xe8" + NOT_UTF8[0]):
        yield 7, ws_frame(8, payload) + ws_frame(9, b"behind the close") + ws_frame(1, b"and more"), 0
        yield 7, ws_frame(8, payload) + ws_frame(8, payload), 1
    big = os.urandom(1 << 20)
    for power in (16, 18, 20, 22, 24):
        payload = big * (1 << power >> 20) or big[: 1 << power]
        for opcode in (1, 2):
            yield 9, ws_frame(opcode, payload), 0
    for size in (64, 256, 1024, 65536):
        yield 9, pieces(2, big, size), 0
    for at_once in (64, 512, 4096):
        yield 9, ws_frame(2, big), at_once
    for n in (0, 16, 64, 256, 1024, 16384, 65536):
        yield 9, b"".join(ws_frame(1 + i % 2, big[:n]) for i in range(1000 if n <= 1024 else 50)), 0
    yield 10, pieces(1, b"*" * 65536, 1300), 0
    # Not Autobahn's: lengths that are not the shortest, an unmasked client, a length beyond all that follows.
    yield 11, bytes([0x81, 0xFE, 0, 5]) + b"\0\0\0\0Hello", 0
    yield 11, bytes([0x81, 0xFF]) + bytes(7) + b"\x05" + b"\0\0\0\0Hello", 1
    yield 11, ws_frame(1, b"unmasked", masked=False), 0
    yield 11, ws_frame(2, b"short", length=(1 << 62)), 0
    yield 11, b"\xff" * 100 + os.urandom(5000) + b"GET / HTTP/1.1\r\n\r\n", 7


ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


class RawEcho:
    """Accepts, notes every byte, and sends it back; ends behind the client."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port, self.got = self.listener.getsockname()[1], []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.got.append(bytearray())
                threading.Thread(target=self.serve, args=(sock, self.got[-1]), daemon=True).start()

    def serve(self, sock, got):
        with sock:
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(4096)
            sock.sendall(ACCEPT)
            echo = bytearray(head.split(b"\r\n\r\n", 1)[1])
            done = threading.Event()
            turn = threading.Condition()

            def send():
                at = 0
                while True:
                    with turn:
                        turn.wait_for(lambda: len(echo) > at or done.is_set())
                        part = bytes(echo[at:])
                    if not part:
                        return sock.shutdown(socket.SHUT_WR)
                    sock.sendall(part)
                    at += len(part)

            sender = threading.Thread(target=send, daemon=True)
            sender.start()
            while data := sock.recv(1 << 18):
                with turn:
                    echo += data
                    turn.notify()
            with turn:
                done.set()
                turn.notify()
            sender.join()
            got += echo


def open_tunnel(port):
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(
        b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101"), head
    return sock


def pass_through(gateway, echo, data, at_once):
    """Sends, ends its side, and reads to the end meanwhile."""
    with open_tunnel(gateway.plain) as sock:
        back = bytearray()

        def read():
            with contextlib.suppress(OSError):
                while part := sock.recv(1 << 18):
                    back.extend(part)

        reader = threading.Thread(target=read)
        reader.start()
        step = at_once or len(data)
        for i in range(0, len(data), step):
            sock.sendall(data[i : i + step])
        sock.shutdown(socket.SHUT_WR)
        reader.join(30)
    until("the end at the service", lambda: len(echo.got[-1]) >= len(data), 10) if data else None
    return echo.got[-1] == data, back == data


for number, what in (
    (1, "framing"),
    (2, "pings"),
    (3, "reserved_bits"),
    (4, "opcodes"),
    (5, "fragments"),
    (6, "utf8"),
    (7, "close"),
    (9, "limits"),
    (10, "auto_fragments"),
    (11, "odd_bytes"),
):

    def family(number=number):
        echo, wrong, count = RawEcho(), [], 0
        with Gateway(echo.port, OPEN) as gateway:
            for i, (of, data, at_once) in enumerate(families()):
                if of == number:
                    count += 1
                    arrived, came_back = pass_through(gateway, echo, data, at_once)
                    if not (arrived and came_back):
                        wrong.append((i, len(data), at_once, arrived, came_back))
        echo.listener.close()
        assert not wrong, f"{len(wrong)} of {count} altered: {wrong}"
        return f"{count} cases, unaltered both ways"

    family.__name__ = f"autobahn_{number}_{what}"
    case(family)


def half_closed(first_to_end):
    echo_listener = socket.create_server(("127.0.0.1", 0))
    with Gateway(echo_listener.getsockname()[1], OPEN) as gateway:
        result = {}

        def dial_in():
            result["client"] = open_tunnel(gateway.plain)

        dialing = threading.Thread(target=dial_in)
        dialing.start()
        service, _ = echo_listener.accept()
        while not service.recv(4096).endswith(b"\r\n\r\n"):
            pass
        service.sendall(ACCEPT)
        dialing.join(5)
        client = result["client"]
        ends, stays = (client, service) if first_to_end == "client" else (service, client)
        for sock in (ends, stays):
            sock.settimeout(5)
        ends.sendall(ws_frame(8, b"\x03\xe8"))
        ends.shutdown(socket.SHUT_WR)
        got = b""
        while part := stays.recv(4096):
            got += part
        assert got.startswith(b"\x88"), got
        time.sleep(1)
        stays.sendall(b"x" * 200_000)
        stays.shutdown(socket.SHUT_WR)
        back = 0
        while part := ends.recv(65536):
            back += len(part)
        same(back, 200_000)
        until("an end", lambda: not gateway.metric("frontdesk_in_flight"), 5)
        client.close(), service.close()
    echo_listener.close()


@case
def half_closed_by_the_client():
    half_closed("client")


@case
def half_closed_by_the_service():
    half_closed("service")


main()
