#!/usr/bin/env python3
"""gRPC with grpcio on both ends of the gateway.

usage: grpc_real.py BINARY [WORD...]; needs: pip install grpcio grpcio-health-checking h2
"""

import os

os.environ.update(GRPC_ENABLE_FORK_SUPPORT="0", GRPC_VERBOSITY="NONE")
import queue
import signal
import threading
import time
from concurrent import futures

import grpc
import h2.events as ev
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from real import CA, CERT, KEY, Gateway, H2Server, case, free_port, goaway, known, main, same, until

OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.absolute_max_metadata_size", 64 << 10),
    ("grpc.use_local_subchannel_pool", 1),
]
# grpcio has a "transparent retry" of its own; it is switched off, so that the gateway's is seen.
UNREPEATED = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
OPEN, TLS = "protocol: h2c", "protocol: h2, TLS"
PEM_CA, PEM, PEM_KEY = (open(name, "rb").read() for name in (CA, CERT, KEY))


class Service(grpc.GenericRpcHandler):
    """/t/NAME calls the method NAME; bytes in, bytes out."""

    def __init__(self):
        self.ended, self.began = threading.Event(), threading.Event()

    def service(self, details):
        name = details.method.removeprefix("/t/")
        kinds = {
            "unary": grpc.unary_unary_rpc_method_handler,
            "up": grpc.stream_unary_rpc_method_handler,
            "down": grpc.unary_stream_rpc_method_handler,
            "both": grpc.stream_stream_rpc_method_handler,
        }
        f = getattr(self, name, None)
        return f and kinds[name.split("_")[0]](f)

    def unary_echo(self, request, _):
        return request

    def unary_metadata(self, _, context):
        seen = [(k, v) for k, v in context.invocation_metadata() if k.startswith("x-")]
        context.send_initial_metadata([("x-first", "1"), ("x-first-bin", b"\x00\xff\n\r")])
        context.set_trailing_metadata([*seen, ("x-last", "a, b"), ("x-last-bin", bytes(range(256)))])
        return repr(sorted(k for k, _ in seen)).encode()

    def unary_time(self, _, context):
        return str(context.time_remaining()).encode()

    def unary_fail(self, _, context):
        context.set_trailing_metadata([("x-why", "because")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nö: 100%\nsecond line")

    def unary_hang(self, _, context):
        context.add_callback(self.ended.set)
        self.began.set()
        self.ended.wait(20)
        return b""

    def unary_slow(self, request, _):
        self.began.set()
        time.sleep(float(request))
        return b"slow"

    def up_count(self, requests, _):
        got = list(requests)
        return f"{len(got)} {sum(map(len, got))}".encode()

    def up_deaf(self, _, context):
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")

    def down_count(self, request, _):
        count, size = map(int, request.split())
        for i in range(count):
            yield i.to_bytes(4, "big") + bytes(size)

    def down_hang(self, _, context):
        context.add_callback(self.ended.set)
        self.began.set()
        yield b"first"
        self.ended.wait(20)

    def down_break(self, _, context):
        yield from (b"1", b"2", b"3")
        context.set_trailing_metadata([("x-why", "mid")])
        context.abort(grpc.StatusCode.DATA_LOSS, "broke off")

    def down_rest(self, request, _):
        for _ in range(3):
            yield b"."
            time.sleep(float(request))

    def both_echo(self, requests, context):
        context.add_callback(self.ended.set)
        self.began.set()
        for request in requests:
            yield b"re: " + request


class Backend:
    def __init__(self, tls=False, port=0, workers=300, health_status=None):
        self.service = Service()
        self.server = grpc.server(
            futures.ThreadPoolExecutor(workers), handlers=[self.service], options=[*OPTIONS, ("grpc.so_reuseport", 0)]
        )
        at = f"127.0.0.1:{port}"
        credentials = grpc.ssl_server_credentials([(PEM_KEY, PEM)])
        self.port = self.server.add_secure_port(at, credentials) if tls else self.server.add_insecure_port(at)
        servicer = health.HealthServicer()
        servicer.set("s", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self.server)
        self.server.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        stopped = self.server.stop(0)
        time.sleep(0.05)
        self.service.ended.set()  # what hangs has been cancelled by now
        stopped.wait(5)


class Client:
    def __init__(self, gateway, tls=False, options=OPTIONS):
        if tls:
            credentials = grpc.ssl_channel_credentials(PEM_CA)
            options = [*options, ("grpc.ssl_target_name_override", "localhost")]
            self.channel = grpc.secure_channel(f"127.0.0.1:{gateway.tls}", credentials, options)
        else:
            self.channel = grpc.insecure_channel(f"127.0.0.1:{gateway.plain}", options)

    def __getattr__(self, name):
        make = {
            "unary": self.channel.unary_unary,
            "up": self.channel.stream_unary,
            "down": self.channel.unary_stream,
            "both": self.channel.stream_stream,
        }[name.split("_")[0]]
        return make(name.replace("__", "/") if "__" in name else f"/t/{name}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()


def refused(call, code, patience=None):
    """The error of a call that has to fail with this code."""
    started = time.monotonic()
    try:
        got = call()
        got = got if isinstance(got, bytes) else list(got)
    except grpc.RpcError as e:
        assert e.code() == code, f"{e.code()} {e.details()!r}, expected {code}"
        took = time.monotonic() - started
        assert patience is None or took < patience, f"{code} only after {took:.1f} s"
        return e
    raise AssertionError(f"succeeded with {got!r:.100}, expected {code}")


def everywhere(f):
    """One case for each way: client and service with TLS or without."""
    for outside in (False, True):
        for inside in (False, True):

            def run(outside=outside, inside=inside):
                with (
                    Backend(inside) as backend,
                    Gateway(backend.port, TLS if inside else OPEN) as gateway,
                    Client(gateway, outside) as client,
                ):
                    return f(client, backend.service, gateway)

            run.__name__ = f"{f.__name__}__{'h2' if outside else 'h2c'}_to_{'h2' if inside else 'h2c'}"
            case(run)


def plain(server="", service=OPEN, route=""):
    def wrap(f):
        def run():
            with Backend() as backend, Gateway(backend.port, service, server, route) as gateway, Client(gateway) as client:
                return f(client, backend, gateway)

        run.__name__ = f.__name__
        return case(run)

    return wrap


@everywhere
def the_four_kinds(client, *_):
    same(client.unary_echo(b"hello", timeout=10), b"hello")
    same(client.unary_echo(b"", timeout=10), b"")
    same(client.up_count(iter([b"ab", b"", b"cde"]), timeout=10), b"3 5")
    same(client.up_count(iter([]), timeout=10), b"0 0")
    same([m[:4] for m in client.down_count(b"3 0", timeout=10)], [i.to_bytes(4, "big") for i in range(3)])
    same(list(client.down_count(b"0 0", timeout=10)), [])
    same(list(client.both_echo(iter([b"a", b"b"]), timeout=10)), [b"re: a", b"re: b"])


@everywhere
def a_thousand_small_messages_each_way(client, *_):
    many = [b"%07d" % i for i in range(1000)]
    same(client.up_count(iter(many), timeout=20), b"1000 7000")
    same(len(list(client.down_count(b"1000 3", timeout=20))), 1000)
    same(list(client.both_echo(iter(many), timeout=20)), [b"re: " + m for m in many])


@everywhere
def messages_of_4_mib(client, *_):
    big = os.urandom(4 << 20)
    assert client.unary_echo(big, timeout=30) == big
    same(client.up_count(iter([big] * 5), timeout=30), b"5 %d" % (20 << 20), "above body_bytes, which does not hold here:")
    same(sum(len(m) for m in client.down_count(b"3 4194304", timeout=30)), 3 * ((4 << 20) + 4))
    assert [m[4:] == big for m in client.both_echo(iter([big, big]), timeout=30)] == [True, True]


@everywhere
def metadata_binary_and_trailing(client, *_):
    sent = [("x-a", "1"), ("x-a", "2"), ("x-b-bin", bytes(range(256))), ("x-empty", ""), ("x-spaces", "a  b")]
    answer, call = client.unary_metadata.with_call(b"", metadata=sent, timeout=10)
    first, last = call.initial_metadata(), call.trailing_metadata()
    for pair in [("x-first", "1"), ("x-first-bin", b"\x00\xff\n\r")]:
        assert pair in [(k, v) for k, v in first], (pair, first)
    got = [(k, v) for k, v in last]
    for pair in [*sent, ("x-last", "a, b"), ("x-last-bin", bytes(range(256)))]:
        assert pair in got, f"{pair} is not in {got!r:.300}"


@everywhere
def deadlines_reach_the_service_and_are_kept(client, service, _):
    left = float(client.unary_time(b"", timeout=7))
    assert 5 < left <= 7.01, left  # grpcio sends 7 s as `7010m`
    refused(lambda: client.unary_hang(b"", timeout=0.5), grpc.StatusCode.DEADLINE_EXCEEDED, 2)
    assert service.ended.wait(3), "the service's context did not end"
    return f"{left:.2f} s of 7 left"


@everywhere
def a_client_that_cancels_ends_the_services_context(client, service, _):
    for name, ends in (("unary_hang", False), ("down_hang", True), ("both_echo", True)):
        service.ended.clear(), service.began.clear()
        forever = threading.Event()
        arguments = iter(lambda: forever.wait(20), None) if name == "both_echo" else b""
        call = getattr(client, name)(arguments) if ends else client.unary_hang.future(b"")
        assert service.began.wait(5), name
        if name == "down_hang":
            same(next(call), b"first")
        call.cancel()
        assert service.ended.wait(3), f"{name}: the service's context did not end within 3 s"
        forever.set()


@everywhere
def a_service_that_aborts_is_heard(client, *_):
    e = refused(lambda: client.unary_fail(b"", timeout=10), grpc.StatusCode.FAILED_PRECONDITION)
    same((e.details(), dict(e.trailing_metadata()).get("x-why")), ("nö: 100%\nsecond line", "because"))
    got = []

    def listen():
        for m in client.down_break(b"", timeout=10):
            got.append(m)
        return b""

    e = refused(listen, grpc.StatusCode.DATA_LOSS)
    same((got, e.details(), dict(e.trailing_metadata()).get("x-why")), ([b"1", b"2", b"3"], "broke off", "mid"))
    e = refused(lambda: client.up_deaf(iter(lambda: bytes(1000), None), timeout=10), grpc.StatusCode.RESOURCE_EXHAUSTED, 5)
    same(e.details(), "enough")
    refused(lambda: client.unary_nothing_of_the_kind(b"", timeout=10), grpc.StatusCode.UNIMPLEMENTED)


@everywhere
def each_side_waits_for_the_other(client, *_):
    inbox = queue.Queue()
    answers = client.both_echo(iter(inbox.get, None), timeout=20)
    for i in range(50):
        inbox.put(b"%d" % i)
        same(next(answers), b"re: %d" % i)
    inbox.put(None)
    same(list(answers), [])


@everywhere
def health_checks_and_watches(client, *_):
    stub = health_pb2_grpc.HealthStub(client.channel)
    same(stub.Check(health_pb2.HealthCheckRequest(service="s"), timeout=10).status, health_pb2.HealthCheckResponse.SERVING)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="s"), timeout=20)
    same(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
    watch.cancel()


@everywhere
def two_hundred_calls_on_one_channel(client, *_):
    calls = [client.unary_echo.future(b"%d" % i, timeout=30) for i in range(200)]
    same([c.result() for c in calls], [b"%d" % i for i in range(200)])
    boxes = [queue.Queue() for _ in range(200)]
    streams = [client.both_echo(iter(b.get, None), timeout=40) for b in boxes]
    # http2.max_concurrent_streams is 100: the client holds the rest back until some have ended.
    for i, box in enumerate(boxes):
        box.put(b"%d" % i), box.put(None)
    same([list(s) for s in streams], [[b"re: %d" % i] for i in range(200)])


@plain(server="http2: { max_concurrent_streams: 250 }")
def two_hundred_streams_open_at_once(client, backend, gateway):
    boxes = [queue.Queue() for _ in range(200)]
    streams = [client.both_echo(iter(b.get, None), timeout=40) for b in boxes]
    for i, box in enumerate(boxes):
        box.put(b"%d" % i)
    same([next(s) for s in streams], [b"re: %d" % i for i in range(200)])
    for box in boxes:
        box.put(None)
    same([list(s) for s in streams], [[]] * 200)


@plain(server="limits: { header_bytes: 32KiB }")
def large_metadata(client, *_):
    big = "v" * 7000
    _, call = client.unary_metadata.with_call(b"", metadata=[("x-big", big), ("x-more", big)], timeout=10)
    got = dict(call.trailing_metadata())
    same((got.get("x-big"), got.get("x-more")), (big, big))


@plain()
def metadata_above_the_limit_is_refused_by_status(client, *_):
    e = refused(lambda: client.unary_echo(b"", metadata=[(f"x-{i}", "v" * 5000) for i in range(8)], timeout=10), grpc.StatusCode.INTERNAL)
    e2 = refused(lambda: client.unary_echo(b"", metadata=[(f"x-{i}", "v") for i in range(120)], timeout=10), grpc.StatusCode.INTERNAL)
    same(client.unary_echo(b"hello", timeout=10), b"hello")
    return f"{e.details()}; {e2.details()}"


@plain(
    server="timeouts: { request_body: 300ms, client_write: 60s }, http2: { idle_timeout: 500ms }",
    service=OPEN + ", timeouts: { read: 300ms, write: 300ms }",
)
def a_call_that_rests_is_not_ended(client, *_):
    inbox = queue.Queue()
    answers = client.both_echo(iter(inbox.get, None), timeout=30)
    for i in range(3):
        inbox.put(b"%d" % i)
        same(next(answers), b"re: %d" % i)
        time.sleep(1.5)
    inbox.put(None)
    same(list(answers), [])
    same(list(client.down_rest(b"1.2", timeout=30)), [b"."] * 3)
    same(client.unary_slow(b"2", timeout=30), b"slow")
    same(client.up_count(iter([b"a"]), timeout=30), b"1 1")
    time.sleep(1.5)  # beyond idle_timeout: the channel connects again
    same(client.unary_echo(b"x", timeout=10), b"x")


@plain(server="limits: { body_bytes: 1KiB }", route="body_bytes: 1KiB")
def body_limits_do_not_hold_for_grpc(client, *_):
    same(len(client.unary_echo(bytes(100_000), timeout=10)), 100_000)
    same(client.up_count(iter([bytes(1000)] * 100), timeout=10), b"100 100000")


@case
def refusals_are_statuses():
    dead = free_port()
    with Gateway(dead, OPEN, routes='[{ path: "/t/*", to: s }, { path: "/get/*", methods: [GET], to: s }]') as gateway:
        seen = []
        for tls in (False, True):
            with Client(gateway, tls) as client:
                for method, code in (
                    ("/none/m", grpc.StatusCode.UNIMPLEMENTED),
                    ("/get/m", grpc.StatusCode.UNIMPLEMENTED),
                    ("/t/m", grpc.StatusCode.UNAVAILABLE),
                ):
                    unary, both = client.channel.unary_unary(method), client.channel.stream_stream(method)
                    seen.append(refused(lambda: unary(b"", timeout=10), code).details())
                    refused(lambda: both(iter(lambda: bytes(1000), None), timeout=10), code, 5)
        return seen


@case
def a_silent_service_is_a_deadline_of_the_client_only():
    """Nobody answers on the connection; the call has its own deadline."""
    with (
        H2Server(lambda *_: None) as server,
        Gateway(server.port, OPEN + ", timeouts: { read: 300ms }") as gateway,
        Client(gateway) as client,
    ):
        refused(lambda: client.unary_echo(b"", timeout=1), grpc.StatusCode.DEADLINE_EXCEEDED, 2)
        until("the reset at the service", lambda: not gateway.metric("frontdesk_in_flight"), 3)


def grpc_answer(peer, stream, body=b"\0\0\0\0\2ok"):
    peer.answer(stream, body, fields=[("content-type", "application/grpc")], trailers=[("grpc-status", "0")])


@case
def a_refused_stream_is_tried_again():
    """RFC 9113, 8.7: nothing was processed, so even a POST may be repeated."""
    refused, served = set(), []

    def handle(peer, event):
        stream = (peer.number, getattr(event, "stream_id", 0))
        if isinstance(event, ev.RequestReceived) and len(refused) == len(served):
            refused.add(stream)
            peer.h2.reset_stream(event.stream_id, 7)
        # The body of one that was refused may have come along with its head.
        elif isinstance(event, ev.StreamEnded) and stream not in refused:
            served.append(stream)
            grpc_answer(peer, event.stream_id)

    with H2Server(handle) as server, Gateway(server.port) as gateway, Client(gateway, options=UNREPEATED) as client:
        for _ in range(10):
            same(client.unary_m(b"hello", timeout=5), b"ok")
    same((len(refused), len(served)), (10, 10), "refused and served:")


@case
def a_goaway_before_the_stream_is_tried_again():
    """The service goes away without having seen the stream: last-stream-id is below it."""

    def handle(peer, event):
        if isinstance(event, ev.RequestReceived) and peer.number % 2 == 1:
            peer.raw(goaway(0))
            peer.close()
        elif isinstance(event, ev.StreamEnded) and peer.number % 2 == 0:
            grpc_answer(peer, event.stream_id)
            peer.raw(goaway(event.stream_id))
            peer.close()

    with H2Server(handle) as server, Gateway(server.port) as gateway, Client(gateway, options=UNREPEATED) as client:
        for _ in range(8):
            same(client.unary_m(b"hello", timeout=5), b"ok")
    return f"{server.connections} connections for 8 calls"


@case
def a_goaway_lets_the_call_in_flight_finish_and_the_next_go_elsewhere():
    began = threading.Event()
    held = []

    def handle(peer, event):
        if isinstance(event, ev.StreamEnded):
            if peer.number == 1 and not held:
                held.append((peer, event.stream_id))
                peer.raw(goaway(event.stream_id))
                began.set()
            else:
                grpc_answer(peer, event.stream_id)

    with H2Server(handle) as server, Gateway(server.port) as gateway, Client(gateway) as client:
        first = client.unary_echo.future(b"hello", timeout=10)
        assert began.wait(5)
        time.sleep(0.1)
        for _ in range(3):
            same(client.unary_echo(b"x", timeout=5), b"ok")
        grpc_answer(*held[0])
        same(first.result(), b"ok")
        same(server.connections, 2, "connections:")


@case
def a_service_that_restarts_gracefully_loses_no_call():
    port = free_port()
    backend = Backend(port=port)
    with Gateway(port) as gateway, Client(gateway) as client:
        for _ in range(5):
            slow = client.unary_slow.future(b"0.5", timeout=10)
            assert backend.service.began.wait(5)
            stopped = backend.server.stop(5)  # GOAWAY; the call in flight goes on
            same(slow.result(), b"slow")
            stopped.wait()
            backend = Backend(port=port)
            for i in range(20):
                same(client.unary_echo(b"%d" % i, timeout=5), b"%d" % i)
    backend.__exit__()


@case
def a_service_that_is_killed_and_comes_back_is_found_again():
    port = free_port()
    backend = Backend(port=port)
    with Gateway(port) as gateway, Client(gateway) as client:
        hang = client.unary_hang.future(b"", timeout=10)
        assert backend.service.began.wait(5)
        backend.__exit__()
        e = refused(hang.result, grpc.StatusCode.UNAVAILABLE, 5)
        refused(lambda: client.unary_echo(b"", timeout=5), grpc.StatusCode.UNAVAILABLE, 5)
        backend = Backend(port=port)
        same(client.unary_echo(b"x", timeout=5), b"x")
    backend.__exit__()
    return e.details()


@case
@known("gRPC has no deadline of ours, see `keepalive: { ping }`")
def a_connection_that_went_dead_is_left():
    """The first connection answers once and then says nothing more, as behind a firewall that forgot it."""

    def handle(peer, event):
        if isinstance(event, ev.StreamEnded) and (peer.number > 1 or event.stream_id == 1):
            grpc_answer(peer, event.stream_id)

    def handle_dead(peer, event):
        if peer.number == 1 and isinstance(event, ev.StreamEnded) and event.stream_id == 1:
            grpc_answer(peer, 1)
            peer.flush()
            threading.Event().wait(60)  # not even a PING is answered
        handle(peer, event)

    with H2Server(handle_dead) as server, Gateway(server.port, OPEN + ", timeouts: { read: 1s }") as gateway, Client(gateway) as client:
        same(client.unary_echo(b"", timeout=5), b"ok")
        started, failed = time.monotonic(), 0
        while time.monotonic() - started < 25:
            try:
                same(client.unary_echo(b"", timeout=1), b"ok")
                return f"left after {failed} calls, {time.monotonic() - started:.1f} s"
            except grpc.RpcError:
                failed += 1
        raise AssertionError(f"{failed} calls in 25 s went to the dead connection")


@plain()
def subscribers_that_read_late_hold_up_no_other(client, _, gateway):
    subscriptions = [client.down_count(b"64 1048576") for _ in range(3)]
    for subscription in subscriptions:
        next(subscription)
    with Client(gateway) as other:
        time.sleep(2)  # its windows fill
        for i in range(5):
            try:
                same(len(other.unary_echo(bytes(50_000), timeout=3)), 50_000)
            except grpc.RpcError as e:
                raise AssertionError(f"call {i} of another client: {e.code()} {e.details()}") from None
    same(sum(1 for _ in subscriptions[0]), 63)


@plain()
def calls_in_flight_survive_a_reload(client, backend, gateway):
    inbox = queue.Queue()
    answers = client.both_echo(iter(inbox.get, None), timeout=30)
    inbox.put(b"before")
    same(next(answers), b"re: before")
    for i in range(5):
        gateway.reload()
        inbox.put(b"%d" % i)
        same(next(answers), b"re: %d" % i)
        same(client.unary_echo(b"x", timeout=5), b"x")
    inbox.put(None)
    same(list(answers), [])


@everywhere
def calls_in_flight_survive_a_drain(client, service, gateway):
    inbox = queue.Queue()
    answers = client.both_echo(iter(inbox.get, None), timeout=30)
    inbox.put(b"before")
    same(next(answers), b"re: before")
    slow = client.unary_slow.future(b"1.5", timeout=10)
    assert service.began.wait(5)
    time.sleep(0.2)
    gateway.signal(signal.SIGTERM)
    same(slow.result(), b"slow")
    time.sleep(1)
    inbox.put(b"after")
    same(next(answers), b"re: after")
    assert gateway.process.poll() is None
    inbox.put(None)
    same((list(answers), answers.code()), ([], grpc.StatusCode.OK))
    started = time.monotonic()
    same(gateway.process.wait(10), 0)
    refused(lambda: client.unary_echo(b"", timeout=2), grpc.StatusCode.UNAVAILABLE)
    return f"ended {time.monotonic() - started:.1f} s behind the last call"


@plain(server="drain_timeout: 1s")
def a_drain_that_is_over_says_unavailable(client, backend, gateway):
    hang = client.unary_hang.future(b"", timeout=20)
    assert backend.service.began.wait(5)
    gateway.signal(signal.SIGTERM)
    e = refused(hang.result, grpc.StatusCode.UNAVAILABLE, 5)
    same(gateway.process.wait(10), 0)
    assert backend.service.ended.wait(3), "the service's context did not end"
    return e.details()


@plain()
def the_log_knows_the_calls(client, backend, gateway):
    client.unary_echo(b"hello", timeout=5)
    refused(lambda: client.unary_fail(b"", timeout=5), grpc.StatusCode.FAILED_PRECONDITION)
    lines = gateway.access(2)
    same(
        [(l["status"], l["code"], l["protocol"], l["path"]) for l in lines],
        [(200, "", "HTTP/2", "/t/unary_echo"), (200, "", "HTTP/2", "/t/unary_fail")],
    )
    return [(l["bytes_in"], l["bytes_out"]) for l in lines]


main()
