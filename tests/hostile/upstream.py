"""Services that misbehave, for clients of HTTP/1.1 and HTTP/2. `python3 upstream.py BINARY [PART OF A CASE'S NAME]`

REFUSE: the client has to get 502 or 504 with a code, or an answer that is visibly broken off. SERVE: the body in full, or the same.
Behind each, the same client's next request and others on the same service have to be served as if nothing had been."""

from common import *

YAML = """
listeners: [{ name: plain, bind: 127.0.0.1:0 }]
server: { threads: 2 }
services: { s: { endpoints: [ORIGIN], timeouts: { connect: 1s, read: 1s, total: 2s } } }
routes: [{ path: /*, to: s }]
"""
REFUSE, SERVE = "refuse", "serve"
# So long the next request waits for what a service says too late.
LATER = 0.15
LINE = b"HTTP/1.1 200 OK\r\n"
STOLEN = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSTOLEN"


def endless(begin, part, pause=0.0, seconds=8):
    def script(sock):
        sock.sendall(begin)
        due = time.monotonic() + seconds
        while time.monotonic() < due:
            sock.sendall(part)
            time.sleep(pause)

    return script


def reset(begin):
    def script(sock):
        sock.sendall(begin)
        time.sleep(0.05)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return script


def parts(*pieces, pause=0.1):
    def script(sock):
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(pause)

    return script


def chunked(body, extra=b""):
    return LINE + b"Transfer-Encoding: chunked\r\n" + extra + b"\r\n" + body


# What is sent; what is expected; whether the connection is left open behind it; the method.
CASES = {
    "transfer-encoding gzip, chunked": (LINE + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", REFUSE),
    "transfer-encoding unknown": (LINE + b"Transfer-Encoding: foo\r\n\r\nhello", REFUSE),
    "transfer-encoding xchunked": (LINE + b"Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", REFUSE),
    "transfer-encoding identity": (LINE + b"Transfer-Encoding: identity\r\n\r\nhello", REFUSE),
    "transfer-encoding empty": (LINE + b"Transfer-Encoding: \r\n\r\nhello", REFUSE),
    "transfer-encoding doubled": (LINE + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", REFUSE),
    "transfer-encoding chunked, chunked": (chunked(b"5\r\nhello\r\n0\r\n\r\n").replace(b": chunked", b": chunked, chunked"), REFUSE),
    "transfer-encoding chunked, identity": (LINE + b"Transfer-Encoding: chunked, identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n", REFUSE),
    "transfer-encoding with a vertical tab": (LINE + b"Transfer-Encoding: \x0bchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", REFUSE),
    "transfer-encoding in HTTP/1.0": (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", REFUSE),
    "length doubled, equal": (LINE + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", SERVE),
    "length doubled, differing": (LINE + b"Content-Length: 5\r\nContent-Length: 3\r\n\r\nhello", REFUSE),
    "length listed, equal": (LINE + b"Content-Length: 5, 5\r\n\r\nhello", SERVE),
    "length listed, differing": (LINE + b"Content-Length: 3, 5\r\n\r\nhello", REFUSE),
    "length -1": (LINE + b"Content-Length: -1\r\n\r\nhello", REFUSE),
    "length +5": (LINE + b"Content-Length: +5\r\n\r\nhello", REFUSE),
    "length 0x5": (LINE + b"Content-Length: 0x5\r\n\r\nhello", REFUSE),
    "length empty": (LINE + b"Content-Length: \r\n\r\nhello", REFUSE),
    "length 5 and text": (LINE + b"Content-Length: 5 a\r\n\r\nhello", REFUSE),
    "length beyond 64 bits": (LINE + b"Content-Length: 18446744073709551621\r\n\r\nhello", REFUSE),
    "length and transfer-encoding": (chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Content-Length: 3\r\n"), SERVE),
    "transfer-encoding and length, not chunked": (LINE + b"Content-Length: 5\r\nTransfer-Encoding: foo\r\n\r\nhello", REFUSE),
    "length larger than the body": (LINE + b"Content-Length: 50\r\n\r\nhello", REFUSE),
    "length larger, kept open": (LINE + b"Content-Length: 50\r\n\r\nhello", REFUSE, True),
    "204 with length and body": (b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\nSTOLEN", "502", True),
    "204 with chunks": (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nSTOLEN\r\n0\r\n\r\n", "502", True),
    "204 with an answer behind": (b"HTTP/1.1 204 No Content\r\n\r\n" + STOLEN, "204", True),
    "304 with body": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\nSTOLEN", "304", True),
    "304 with an answer behind": (b"HTTP/1.1 304 Not Modified\r\n\r\n" + STOLEN, "304", True),
    "304 with chunks": (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nSTOLEN\r\n0\r\n\r\n", "304", True),
    "205 with body": (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 6\r\n\r\nSTOLEN", "205", True),
    "101 unasked": (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nSTOLEN", REFUSE, True),
    "101 bare": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + STOLEN, REFUSE, True),
    "103 without end": (endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"), REFUSE),
    "103 without end, slowly": (endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.2), REFUSE),
    "100 without end, slowly": (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.2), REFUSE),
    "103 and nothing": (b"HTTP/1.1 103 Early Hints\r\n\r\n", REFUSE, True),
    "103 with body": (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhello" + LINE, REFUSE, True),
    "102 then 200": (b"HTTP/1.1 102 Processing\r\n\r\n" + LINE + b"Content-Length: 5\r\n\r\nhello", SERVE, True),
    "199 then 200": (b"HTTP/1.1 199 X\r\n\r\n" + LINE + b"Content-Length: 5\r\n\r\nhello", SERVE, True),
    "head dripped": (endless(LINE + b"X: ", b"x", 0.1), REFUSE),
    "nothing": (b"", REFUSE, True),
    "head of 64 KiB, one field": (LINE + b"X: " + b"x" * 65536 + b"\r\nContent-Length: 5\r\n\r\nhello", SERVE),
    "head of 1 MiB, one field": (LINE + b"X: " + b"x" * (1 << 20) + b"\r\nContent-Length: 5\r\n\r\nhello", REFUSE),
    "head of 64 KiB, many": (LINE + b"X: yyyyyyyyyy\r\n" * 4000 + b"Content-Length: 5\r\n\r\nhello", REFUSE),
    "head of 1 MiB, many": (LINE + b"X: yyyyyyyyyy\r\n" * 70000 + b"\r\nhello", REFUSE),
    "head without end": (endless(LINE, b"X: yyyyyyyyyyy\r\n" * 4000), REFUSE),
    "200 fields": (LINE + b"".join(b"X-%d: y\r\n" % i for i in range(200)) + b"Content-Length: 5\r\n\r\nhello", SERVE),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", SERVE),
    "no reason, with the blank": (b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", SERVE),
    "reason of 60 KiB": (b"HTTP/1.1 200 " + b"x" * 60000 + b"\r\nContent-Length: 5\r\n\r\nhello", SERVE),
    "like HTTP/0.9": (b"<html>hello</html>\n", REFUSE),
    "garbage": (b"\0\x01\x02\xff" * 100, REFUSE),
    "TLS alert": (b"\x15\x03\x01\0\x02\x02\x46", REFUSE),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSE),
    "SSH": (b"SSH-2.0-x\r\n", REFUSE),
    "a request": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", REFUSE),
    "HTTP/2.0 200": (b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", REFUSE),
    "HTTP/1.2": (b"HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello", REFUSE),
    "status 20": (b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello", REFUSE),
    "status 2000": (b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello", REFUSE),
    "status 099": (b"HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello", REFUSE),
    "status 000": (b"HTTP/1.1 000 OK\r\nContent-Length: 5\r\n\r\nhello", REFUSE),
    "status 999": (b"HTTP/1.1 999 OK\r\nContent-Length: 5\r\n\r\nhello", "999"),
    "status -20": (b"HTTP/1.1 -20 OK\r\nContent-Length: 5\r\n\r\nhello", REFUSE),
    "obs-fold": (LINE + b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello", SERVE),
    "obs-fold of the length": (LINE + b"Content-Length:\r\n 5\r\n\r\nhello", SERVE),
    "NUL in a value": (LINE + b"X: a\0b\r\nContent-Length: 5\r\n\r\nhello", REFUSE),
    "NUL in a name": (LINE + b"X\0: a\r\nContent-Length: 5\r\n\r\nhello", REFUSE),
    "CR in a value": (LINE + b"X: a\rEvil: b\r\nContent-Length: 5\r\n\r\nhello", REFUSE),
    "bare LF": (LINE.replace(b"\r", b"") + b"Content-Length: 5\n\nhello", SERVE),
    "blank before the colon": (LINE + b"Content-Length : 5\r\n\r\nhello", SERVE),
    "no colon": (LINE + b"Content-Length 5\r\n\r\nhello", REFUSE),
    "empty name": (LINE + b": x\r\nContent-Length: 5\r\n\r\nhello", REFUSE),
    "blank line first": (b"\r\n" + LINE + b"Content-Length: 5\r\n\r\nhello", SERVE),
    "closed at once": (reset(b""), REFUSE),
    "closed in the status": (b"HTTP/1.1 2", REFUSE),
    "closed in the head": (LINE + b"X: y\r\n", REFUSE),
    "closed in the body": (LINE + b"Content-Length: 10\r\n\r\nhello", REFUSE),
    "closed in a chunk": (chunked(b"a\r\nhello"), REFUSE),
    "closed in a chunk's size": (chunked(b"5\r\nhello\r\n1"), REFUSE),
    "closed behind a chunk": (chunked(b"5\r\nhello\r\n"), REFUSE),
    "closed behind the last chunk": (chunked(b"5\r\nhello\r\n0\r\n"), REFUSE),
    "closed in the trailers": (chunked(b"5\r\nhello\r\n0\r\nX: y\r\n"), REFUSE),
    "reset in the head": (reset(LINE), REFUSE),
    "reset in the body": (reset(LINE + b"Content-Length: 10\r\n\r\nhello"), REFUSE),
    "reset in a chunk": (reset(chunked(b"a\r\nhello")), REFUSE),
    "reset in a body until the end": (reset(LINE + b"\r\nhello"), REFUSE),
    "silent in the body": (LINE + b"Content-Length: 10\r\n\r\nhello", REFUSE, True),
    "chunk garbage": (chunked(b"5\r\nhello\r\nxyz\r\n"), REFUSE),
    "chunk -5": (chunked(b"-5\r\nhello\r\n0\r\n\r\n"), REFUSE),
    "chunk 0x5": (chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), REFUSE),
    "chunk +5": (chunked(b"+5\r\nhello\r\n0\r\n\r\n"), REFUSE),
    "chunk empty": (chunked(b"5\r\nhello\r\n\r\n\r\n"), REFUSE, True),
    "chunk of 17 digits": (chunked(b"10000000000000005\r\nhello\r\n0\r\n\r\n"), REFUSE),
    "chunk with too many bytes": (chunked(b"3\r\nhello\r\n0\r\n\r\n"), REFUSE),
    "chunk with bare LF": (chunked(b"5\nhello\n0\n\n"), REFUSE),
    "chunk extension of 1 MiB": (chunked(b"5;" + b"x" * (1 << 20) + b"\r\nhello\r\n0\r\n\r\n"), REFUSE),
    "chunk size of 100,000 zeros": (chunked(b"0" * 100_000 + b"5\r\nhello\r\n0\r\n\r\n"), REFUSE),
    "chunk extension": (chunked(b"5;x=y\r\nhello\r\n0\r\n\r\n"), SERVE),
    "chunk with blank": (chunked(b"5 \r\nhello\r\n0\r\n\r\n"), SERVE),
    "trailers without end": (endless(chunked(b"5\r\nhello\r\n0\r\n"), b"X: yyyyyyyyyyyyy\r\n" * 100), REFUSE),
    "trailer of framing": (chunked(b"5\r\nhello\r\n0\r\nContent-Length: 3\r\nTransfer-Encoding: x\r\n\r\n"), SERVE),
    "bytes behind the body": (LINE + b"Content-Length: 5\r\n\r\nhello" + STOLEN, SERVE, True),
    "bytes behind the body, later": (parts(LINE + b"Content-Length: 5\r\n\r\nhello", STOLEN), SERVE, True),
    "bytes behind the chunks": (chunked(b"5\r\nhello\r\n0\r\n\r\n") + STOLEN, SERVE, True),
    "bytes behind the chunks, later": (parts(chunked(b"5\r\nhello\r\n0\r\n\r\n"), STOLEN), SERVE, True),
    "bytes behind an empty body": (LINE + b"Content-Length: 0\r\n\r\n" + STOLEN, "empty", True),
    "answer of an older minor": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello" + STOLEN, SERVE, True),
    "connection close, then more": (LINE + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello" + STOLEN, SERVE, True),
    "HEAD with a body": (LINE + b"Content-Length: 6\r\n\r\nSTOLEN", "empty", True, "HEAD"),
    "HEAD with an answer behind": (LINE + b"Content-Length: 5\r\n\r\n" + STOLEN, "empty", True, "HEAD"),
    "HEAD with chunks": (chunked(b"6\r\nSTOLEN\r\n0\r\n\r\n"), "empty", True, "HEAD"),
    "HEAD, broken head": (LINE + b"Content-Le", REFUSE, False, "HEAD"),
    "HEAD with a body, later": (parts(LINE + b"Content-Length: 6\r\n\r\n", STOLEN), "empty", True, "HEAD"),
    "hop-by-hop fields": (
        LINE + b"Connection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",
        "clean",
    ),
    "connection names the length, closed in the body": (LINE + b"Connection: Content-Length\r\nContent-Length: 10\r\n\r\nhello", REFUSE),
    "connection names the coding, closed in a chunk": (chunked(b"a\r\nhello", b"Connection: Transfer-Encoding\r\n"), REFUSE),
    "connection names the coding": (chunked(b"5\r\nhello\r\n0\r\n\r\n", b"Connection: Transfer-Encoding\r\n"), SERVE),
    "HTTP/1.0 until the end": (b"HTTP/1.0 200 OK\r\n\r\nhello", SERVE),
    "HTTP/1.0 with length": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", SERVE),
    "connection names the length": (LINE + b"Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", SERVE),
}

# Wrong by the letter, but framed anew, so that nobody is misled.
LAX = {"205 with body", "status 999"}


def script(sock, head):
    method, path = head.split()[:2]
    if path.startswith(b"/honest"):
        sock.sendall(ok(b"honest"))
        return True
    what, _, stays, *_ = *CASES[list(CASES)[int(path.split(b"/")[-1])]], False
    what(sock) if callable(what) else sock.sendall(what)
    # Left open, it goes on to the next request like one that is well; else a broken one that is closed.
    if not stays and not callable(what):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(3)
        with contextlib.suppress(OSError):
            while sock.recv(65536):
                pass
    return bool(stays)


def over_http1(gateway, path, method):
    """What came, and what the next request of the same connection got; None when that was closed."""
    with contextlib.closing(gateway.connect("plain", timeout=6)) as sock, sock.makefile("rb") as stream:
        sock.sendall(get(path, method=method.encode()))
        try:
            status, fields, body = read_answer(stream, method)
        except Misframed as e:
            return 0, {}, str(e).encode(), None
        except (OSError, http.client.HTTPException, ValueError) as e:
            return type(e).__name__, {}, b"", None
        if b"/case" in path:
            time.sleep(LATER)
        try:
            sock.sendall(get(b"/honest"))
            after = read_answer(stream)
            return status, fields, body, after[::2] == (200, b"honest")
        except http.client.RemoteDisconnected:
            return status, fields, body, None
        except (http.client.HTTPException, ValueError) as e:
            return status, fields, body, f"{type(e).__name__} {e}"
        except OSError:
            return status, fields, body, None


def over_http2(gateway, path, method):
    with H2(gateway, "h2c") as client:
        outcome = client.request(1, pseudo(method.encode(), path), seconds=6)
        fields, body = client.fields.get(1, {}), client.bodies[1]
        time.sleep(LATER)
        after = client.request(3, pseudo(path=b"/honest"))
        return outcome, fields, body, (after, client.bodies[3]) == (200, b"honest")


def main():
    report, origin = Report(), Origin(script)
    with Gateway(YAML.replace("ORIGIN", origin.address)) as gateway:
        for number, (name, case) in enumerate(CASES.items()):
            _, expected, _, method = (*case, False, "GET")[:4] if len(case) == 2 else (*case, "GET")[:4]
            for kind, ask in (("h1", over_http1), ("h2", over_http2)):
                if not report.wants(f"{kind} {name}"):
                    continue
                gateway.forget_peak()
                before, logged = gateway.memory(), len(gateway.log())
                # Some connections that are kept, for the broken answer to come on.
                for _ in range(2):
                    over_http1(gateway, b"/honest", "GET")
                began = time.monotonic()
                outcome, fields, body, after = ask(gateway, b"/case/%d" % number, method)
                took, growth = time.monotonic() - began, gateway.memory("VmHWM") - before
                others = [over_http1(gateway, b"/honest/%d" % i, "GET") for i in range(4)]
                logged = len(gateway.log()) - logged
                well = all((status, body) == (200, b"honest") for status, _, body, _ in others)
                refused = isinstance(outcome, str) or (outcome in (502, 504) and (b'"code"' in body or method == "HEAD"))
                lax = name in LAX and outcome in (200, 205) and body in (b"hello", b"STOLEN") and well and after in (True, None)
                exact = outcome == 200 and body == b"hello" and not (name == "NUL in a value")
                good = {
                    REFUSE: refused,
                    SERVE: refused or exact,
                    "empty": refused or (outcome == 200 and not body),
                    "clean": exact and not {"x-hop", "keep-alive", "proxy-connection", "upgrade"} & set(fields),
                }.get(expected, refused or (str(outcome) == expected and body in (b"", b"hello")))
                wrong = [
                    text
                    for bad, text in [
                        (not good, "not " + expected),
                        (after not in (True, None), f"the next request: {after}"),
                        (not well, f"others: {[(o[0], o[2][:20]) for o in others]}"),
                        (took > 4.5, "slow"),
                        (growth > 16, f"{growth:+.0f} MiB"),
                        (logged > 4096, f"{logged} bytes logged"),
                    ]
                    if bad
                ]
                code = (re.search(rb'"code":"(\w+)"', body) or [b"", b""])[1].decode()
                report.case(
                    f"{kind} {name}",
                    not wrong,
                    f"{', '.join(wrong)}{'; ' if wrong else ''}{outcome} {code or body[:60]} after {took:.1f} s"
                    + ("" if after is not None else ", closed"),
                    lax,
                )
        report.case(
            "nothing is left", gateway.is_idle(10), f"{gateway.status()}, {gateway.memory():.0f} MiB, {gateway.log().count(chr(10))} log lines"
        )
    report.end()


if __name__ == "__main__":
    main()
