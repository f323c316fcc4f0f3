"""Public corpora of HTTP/1 attacks, sent one by one. `python3 corpora.py BINARY FOLDER`

FOLDER has JSON files with "cases": raw requests (`raw`), or their parts (`method`, `uri`, `version`, `headers`). The service
parses strictly. A case fails when a request gets to it that is ambiguous, or that no strict reader sees in what was sent; a legal
one that is refused is shown."""

import concurrent.futures, json, pathlib, re, socket, subprocess, sys, tempfile, threading, time

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (\S+) HTTP/1\.([01])")
SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(;[\t\x20-\x7e\x80-\xff]*)?\r\n")


def body_end(body, length, chunked):
    """Where a body ends; None when more has to come, -1 when it is malformed."""
    if not chunked:
        return length if len(body) >= length else None
    at = 0
    while True:
        size = SIZE.match(body, at)
        if not size:
            return -1 if b"\n" in body[at:] or len(body) - at > 20 else None
        at, n = size.end(), int(size[1], 16)
        if n == 0:
            break
        if len(body) < at + n + 2:
            return None
        if body[at + n : at + n + 2] != b"\r\n":
            return -1
        at += n + 2
    while True:
        end = body.find(b"\r\n", at)
        if end < 0:
            return None
        line, at = body[at:end], end + 2
        if not line:
            return at
        if not TOKEN.fullmatch(line.partition(b":")[0]) or b"\n" in line:
            return -1


def strict(data):
    """The number of requests that a strict reader sees, what is left, and whether it is malformed."""
    count = 0
    while data:
        data = data.removeprefix(b"\r\n")
        head, end, body = data.partition(b"\r\n\r\n")
        if not end:
            return count, data, False
        lines = head.split(b"\r\n")
        first = LINE.fullmatch(lines[0])
        fields = [line.partition(b":") for line in lines[1:]]
        bad = not first or any(not colon or not TOKEN.fullmatch(name) for name, colon, _ in fields)
        values = [(name.lower(), value.strip(b" \t")) for name, _, value in fields]
        bad = bad or any(re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value) for _, value in values)
        all_of = lambda wanted: [value for name, value in values if name == wanted]
        hosts, lengths, codings = all_of(b"host"), all_of(b"content-length"), all_of(b"transfer-encoding")
        bad = bad or len(hosts) > 1 or (not hosts and first[3] == b"1") or len(lengths) + len(codings) > 1
        bad = bad or (codings and (codings[0].lower() != b"chunked" or first[3] == b"0"))
        bad = bad or (lengths and not re.fullmatch(rb"[0-9]{1,19}", lengths[0]))
        if bad:
            return count, data, True
        end = body_end(body, int(lengths[0]) if lengths else 0, bool(codings))
        if end is None or end < 0:
            return count, data, end is not None
        count, data = count + 1, body[end:]
    return count, b"", False


class Origin:
    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.seen, self.ambiguous = {}, []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            threading.Thread(target=self.serve, args=(self.socket.accept()[0],), daemon=True).start()

    def serve(self, client):
        data = b""
        while received := client.recv(65536):
            data += received
            count, rest, bad = strict(data)
            if bad:
                self.ambiguous.append(data[:300])
                return client.close()
            case = re.search(rb"x-case: ([0-9a-z-]+)", data)
            name = case[1].decode() if case else "?"
            self.seen[name] = self.seen.get(name, 0) + count
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" * count)
            data = rest


def cases(folder):
    for path in sorted(pathlib.Path(folder).glob("*.json")):
        for number, case in enumerate(json.loads(path.read_text()).get("cases", [])):
            if "raw" in case:
                raw = case["raw"]
                raw = raw.encode("latin1") if max(map(ord, raw), default=0) < 256 else raw.encode()
            elif "uri" in case:
                fields = "".join(f"{name}:{value}\r\n" for name, value, *_ in case["headers"])
                raw = f"{case['method']} {case['uri']} {case['version']}\r\n{fields}\r\n".encode()
            else:
                continue
            yield f"{path.stem}-{number}".lower(), case.get("name", ""), raw


def send(port, case):
    name, _, raw = case
    # The name of the case travels behind the first line, where it changes nothing.
    end = raw.find(b"\r\n", 2) + 2
    sent = raw[:end] + b"X-Id: " + name.encode() + b"\r\n" + raw[end:] if end > 1 else raw
    got = b""
    with socket.create_connection(("127.0.0.1", port), 8) as client:
        try:
            client.sendall(sent)
            while received := client.recv(65536):
                got += received
        except TimeoutError:
            return case, ["never ended"]
        except OSError:
            pass
    return case, [status.decode() for status in re.findall(rb"HTTP/1\.1 ([2-5]\d\d)", got)]


def main(binary, folder):
    origin, temporary = Origin(), tempfile.TemporaryDirectory()
    config = pathlib.Path(temporary.name, "f.yaml")
    config.write_text(f"""
listeners: [{{ bind: 127.0.0.1:0 }}]
server: {{ timeouts: {{ request_header: 700ms, request_body: 700ms, keepalive: 700ms }} }}
routes: [{{ path: /*, to: "http://127.0.0.1:{origin.socket.getsockname()[1]}", request: {{ headers: {{ set: {{ X-Case: "${{header.x-id}}" }} }} }} }}]
""")
    gateway = subprocess.Popen([binary, "run", "-c", config], stderr=subprocess.PIPE, text=True)
    port = next(int(found[1]) for line in gateway.stderr if (found := re.search(r"listening on 127\.0\.0\.1:(\d+)", line)))
    threading.Thread(target=lambda: [None for _ in gateway.stderr], daemon=True).start()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answered = list(pool.map(lambda case: send(port, case), cases(folder)))
    failed = refused = 0
    for (name, title, raw), statuses in answered:
        count, rest, bad = strict(raw)
        if origin.seen.get(name, 0) > count or statuses == ["never ended"]:
            failed += 1
            print(f"FAIL {name} {title}: {origin.seen.get(name, 0)} of {count} arrived, {statuses}")
        elif not bad and not rest and sum(status < "300" for status in statuses) < count:
            refused += 1
            print(f"LAX  {name} {title}: legal to a strict reader, {statuses}")
    for data in origin.ambiguous:
        print(f"FAIL ambiguous at the service: {data}")
    alive = gateway.poll() is None
    gateway.kill()
    gateway.wait()
    print(f"{len(answered)} cases, {failed} failed, {len(origin.ambiguous)} ambiguous at the service, {refused} legal ones refused")
    return failed or origin.ambiguous or not alive


if __name__ == "__main__":
    sys.exit(bool(main(*sys.argv[1:3])))
