"""Starts the origin and the gateways, each with its configuration, and reads what their processes have used.

The templates are the whole set-up: what isn't in them is the program's default.
"""

import base64
import collections
import contextlib
import hmac
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
RELEASE = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
BINARIES = {"bare": RELEASE / "examples/bare", "frontdesk": RELEASE / "frontdesk"}

NAMES = ("nginx", "bare", "frontdesk")
BODIES = {"1k": 1024, "100k": 100 * 1024}
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

NGINX = """\
daemon off;
worker_processes 1;
{user}
pid {dir}/{name}.pid;
error_log {dir}/{name}.error.log;
events {{ worker_connections {connections}; }}
http {{
    client_body_temp_path {dir}/{name}.body;
    proxy_temp_path {dir}/{name}.proxy;
    fastcgi_temp_path {dir}/{name}.fastcgi;
    uwsgi_temp_path {dir}/{name}.uwsgi;
    scgi_temp_path {dir}/{name}.scgi;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    keepalive_timeout 600s;
    {http2}
{rest}
}}
"""

ORIGIN = """\
    access_log off;
    open_file_cache max=16;
    server {{
        listen 127.0.0.1:{origin} backlog=4096;
        listen 127.0.0.2:{origin} backlog=4096;
        listen 127.0.0.3:{origin} backlog=4096;
        location = /1k {{ return 200 "{body}"; }}
        location ~ ^/(json|composed)$ {{ default_type application/json; return 200 '{json}'; }}
        location / {{ root {dir}/origin; }}
    }}
"""

# The log is written in batches, as Frontdesk's is: a write for each line would flatter Frontdesk.
PROXY = """\
{store}
    access_log {log} combined buffer=32k flush=1s;
    upstream origin {{
        server 127.0.0.1:{origin};
        keepalive 512;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{plain} backlog=4096;
        listen 127.0.0.1:{secure} ssl http2 backlog=4096;
        ssl_certificate {dir}/cert.pem;
        ssl_certificate_key {dir}/key.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_buffers 16 8k;
            proxy_max_temp_file_size 0;
{location}
        }}
    }}
"""

FRONTDESK = """\
listeners:
  - {{ name: plain, bind: "127.0.0.1:{plain}" }}
  - name: secure
    bind: "127.0.0.1:{secure}"
    tls: {{ certificates: [{{ cert: {dir}/cert.pem, key: {dir}/key.pem }}] }}
admin: {{ bind: "127.0.0.1:{admin}" }}
server: {{ threads: 1{server} }}
access_log: {{ path: {log}, format: json }}
services: {{ origin: {{ {service} }} }}
{rest}
routes:{routes}
  - {{ path: /*, to: origin{route} }}
"""

# Of hosts that are asked for and of those that are not, with captures and without.
ROUTES = "".join(f"""
  - {{ host: "{"127.0.0.1" if n % 2 else f"h{n}.bench.test"}", path: "/api/v{n}/{{id}}/*", to: origin }}""" for n in range(999))


SECRET = "bench-secret-of-at-least-thirty-two-bytes"
JWT = "auth: {{{{ bench: {{{{ jwt: {{{{ issuer: https://bench.test, algorithms: [{algorithm}], {key} }}}} }}}} }}}}"
SERVICE = 'endpoints: ["127.0.0.1:{origin}"]'
# All that a service can have, but a cookie for each answer.
SERVICE_FULL = """endpoints: ["127.0.0.1:{origin}", "127.0.0.2:{origin}", "127.0.0.3:{origin}"], balance: least_request,
    health_check: {{ tcp: true }}, ejection: {{ consecutive_failures: 5 }}, slow_start: 30s, max_in_flight: 1000,
    queue: {{ size: 100, timeout: 1s }}, breaker: {{ error_percent: 50, slow: 2s }}, timeouts: {{ read: 10s, total: 20s }},
    retries: {{ attempts: 3, when: [connect, reset, 502, 503, 504], methods: idempotent, per_try: 5s }}"""
# Frontdesk with another configuration, measured when asked for; beside `frontdesk` its price is told. `token` is the algorithm of
# the one that each request shows; where `refused` is set, all but the first are. With `store` it is nginx.
CALL = "{ to: origin, path: /json }"
VARIANTS = {
    "shaped": {"route": ", request: { headers: { set: { X-Route: bench }, remove: [Cookie] } }, "
                        "response: { headers: { set: { X-Frame-Options: DENY }, remove: [Server] } }"},
    # Three calls for each of 64 clients: more connections rest than are kept by default.
    "composed": {"service": SERVICE + ", keepalive: {{ connections: 256 }}",
                 "routes": f"\n  - {{ path: /composed, compose: {{ calls: {{ a: {CALL}, b: {CALL}, c: {CALL} }} }} }}"},
    "nginx_cache": {"store": "    proxy_cache_path {dir}/{name}.cache keys_zone=bench:10m;\n",
                    "location": "            proxy_cache bench;\n            proxy_cache_valid 200 1h;\n"},
    "cache": {"route": ", cache: bench", "rest": "caches: {{ bench: {{ ttl: 1h }} }}"},
    "ratelimit": {"route": ", rate_limits: [bench]", "rest": "rate_limits: {{ bench: {{ rate: 10000000/s, by: client_ip }} }}"},
    "flood": {"server": ", flood: { rate: 20/1h }", "refused": True},
    "routes1000": {"routes": ROUTES},
    "upstream_full": {"service": SERVICE_FULL},
    "jwt": {"route": ", auth: [bench]", "rest": JWT.format(algorithm="HS256", key=f"secret: {SECRET}"), "token": "HS256"},
    "jwt_rs256": {"route": ", auth: [bench]", "rest": JWT.format(algorithm="RS256", key="public_key: {dir}/rsa.pub"), "token": "RS256"},
}

class Failure(Exception):
    """What makes figures worthless, told to whoever started the run."""


class Bench:
    """The directory, the cores and the origin of a run; ends every process it started when its stack is closed."""

    def __init__(self, directory, idle_connections, stack):
        self.dir, self.stack = directory, stack
        self.connections = max(4096, idle_connections + 1024)
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2:
            raise Failure("needs two cores: one for the gateway, another for the origin and the load generator")
        self.gateway_cpu, self.origin_cpu, self.load_cpu = cpus[0], cpus[1], cpus[2 if len(cpus) > 2 else 1]
        run_quietly("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=bench.test",
                    "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                    "-addext", "subjectAltName=DNS:bench.test,IP:127.0.0.1",
                    "-keyout", f"{directory}/key.pem", "-out", f"{directory}/cert.pem")
        run_quietly("openssl", "genrsa", "-out", f"{directory}/rsa.key", "2048")
        run_quietly("openssl", "rsa", "-in", f"{directory}/rsa.key", "-pubout", "-out", f"{directory}/rsa.pub")
        os.mkdir(f"{directory}/origin")
        pathlib.Path(f"{directory}/origin/100k").write_bytes(b"x" * BODIES["100k"])
        [self.origin_port] = free_ports(1)
        origin = ORIGIN.format(origin=self.origin_port, dir=directory, body="x" * BODIES["1k"],
                               json=json.dumps({"items": [{"id": n, "name": "Ada Lovelace", "total": 18.5} for n in range(20)]}))
        process = self.launch("origin", self.nginx("origin", origin), self.origin_cpu)
        self.wait_until_answers("origin", process, self.origin_port)

    def gateway(self, name):
        """Starts it; a name may be started any number of times."""
        plain, secure, admin = free_ports(3)
        log = f"{self.dir}/{name}.access.log"
        values = {"dir": self.dir, "origin": self.origin_port, "plain": plain, "secure": secure, "admin": admin,
                  "log": log}
        variant = VARIANTS.get(name, {})
        if name == "nginx" or "store" in variant:
            parts = {part: variant.get(part, "").format(dir=self.dir, name=name) for part in ("store", "location")}
            command = self.nginx(f"nginx{plain}", PROXY.format(**values, **parts))
        elif name == "bare":
            command = [BINARIES["bare"], f"127.0.0.1:{plain}", f"127.0.0.1:{self.origin_port}", "1",
                       f"127.0.0.1:{secure}", f"{self.dir}/cert.pem", f"{self.dir}/key.pem"]
        else:
            config = pathlib.Path(f"{self.dir}/frontdesk{plain}.yaml")
            parts = {part: variant.get(part, "").format(dir=self.dir) if part == "rest" else variant.get(part, "")
                     for part in ("routes", "route", "rest", "server")}
            service = variant.get("service", SERVICE).format(**values)
            config.write_text(FRONTDESK.format(**values, **parts, service=service))
            command = [BINARIES["frontdesk"], "run", "-c", config]
        algorithm = variant.get("token")
        headers = {"Authorization": f"Bearer {self.token(algorithm)}"} if algorithm else {}
        process = self.launch(name, command, self.gateway_cpu)
        self.wait_until_answers(name, process, plain, headers)
        return Gateway(name, process, {"http": plain, "https": secure}, log, headers, "refused" in variant)

    def token(self, algorithm):
        def encode(raw):
            return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

        claims = {"iss": "https://bench.test", "sub": "bench", "exp": int(time.time()) + 86400}
        signed = ".".join(encode(json.dumps(part).encode()) for part in ({"alg": algorithm, "typ": "JWT"}, claims))
        if algorithm == "HS256":
            return f"{signed}.{encode(hmac.digest(SECRET.encode(), signed.encode(), 'sha256'))}"
        command = ["openssl", "dgst", "-sha256", "-sign", f"{self.dir}/rsa.key"]
        return f"{signed}.{encode(subprocess.run(command, input=signed.encode(), capture_output=True, check=True).stdout)}"

    def nginx(self, name, rest):
        config = pathlib.Path(f"{self.dir}/{name}.conf")
        config.write_text(NGINX.format(
            dir=self.dir, name=name, rest=rest, connections=self.connections,
            user="user root;" if os.geteuid() == 0 else "",  # its worker must reach our directory
            http2="http2_max_requests 1000000;" if nginx_version() < (1, 19, 7) else ""))
        return ["nginx", "-p", self.dir, "-c", config]

    def launch(self, name, command, cpu):
        with open(f"{self.dir}/{name}.out", "ab") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       start_new_session=True, preexec_fn=lambda: os.sched_setaffinity(0, {cpu}))
        self.stack.callback(stop, process)
        return process

    def wait_until_answers(self, name, process, port, headers=None):
        deadline = time.monotonic() + 15
        while True:
            if process.poll() is not None:
                raise Failure(f"{name} ended with {process.returncode}: {self.last_words(name)}")
            try:
                for body, length in BODIES.items():
                    check_answer(name, port, f"/{body}", length, headers or {})
                return
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    raise Failure(f"{name} does not answer: {error}; {self.last_words(name)}") from error
                time.sleep(0.05)

    def last_words(self, name):
        return pathlib.Path(f"{self.dir}/{name}.out").read_text(errors="replace")[-2000:].strip() or "(no output)"


class Gateway:
    """`headers` are those that each request has; it may be refused."""

    def __init__(self, name, process, ports, log, headers=None, is_refused=False):
        self.name, self.process, self.ports, self.log, self.headers = name, process, ports, log, headers or {}
        self.is_refused = is_refused

    def cpu_seconds(self):
        """User and system time so far, of all its processes."""
        stats = [stat_fields(pid) for pid in self.pids()]
        return sum(int(fields[11]) + int(fields[12]) for fields in stats) / TICKS_PER_SECOND

    def rss_kib(self):
        rollups = [pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids()]
        return sum(int(re.search(r"^Rss:\s+(\d+) kB", text, re.M)[1]) for text in rollups)

    def pids(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} ended with {self.process.returncode} in the middle of the run")
        children = collections.defaultdict(list)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children[int(stat_fields(pid)[1])].append(int(pid))
        pids = [self.process.pid]
        for pid in pids:  # grows while it is walked
            pids += children[pid]
        return pids

    def forget_log(self):
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.log, 0)


def stat_fields(pid):
    """/proc/PID/stat from the state on: what stands before it may hold spaces."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def stop(process):
    """SIGINT ends each of them at once; the whole group is killed if it doesn't."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_ports(count):
    """Held all at once, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def check_answer(name, port, path, length, headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    if answer.status != 200 or len(body) != length:
        raise Failure(f"{name} answered {path} with {answer.status} and {len(body)} bytes")


def run_quietly(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout + done.stderr


def nginx_version():
    return tuple(map(int, re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", run_quietly("nginx", "-v")).groups()))
