"""h2spec (summerwind/h2spec) over h2c and TLS. `python3 h2spec.py BINARY [H2SPEC]`"""

from common import *
from http2 import YAML, script

# On a port that speaks HTTP/1 too, a bad preface is a bad request of HTTP/1.
KNOWN = {"h2c": {"Sends invalid connection preface"}, "tls": set()}


def main():
    report, origin = Report(), Origin(lambda sock, head: sock.sendall(ok(b"x" * 100)) is None)
    with Gateway(YAML.replace("ORIGIN", origin.address)) as gateway:
        for kind, port in (("h2c", "plain"), ("tls", "tls")):
            command = [sys.argv[2] if len(sys.argv) > 2 else "h2spec", "-h", "127.0.0.1", "-p", str(gateway.ports[port]), "-P", "/x", "-o", "4"]
            text = subprocess.run(command + ["-t", "-k"] * (kind == "tls"), capture_output=True, text=True).stdout
            failures = set(re.findall(r"(?m)^\s*(?:using source.*)?\u00d7 \d+: (.*)$", re.sub(r"\x1b\[[0-9;]*m", "", text)))
            counts = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", text)
            report.case(f"h2spec over {kind}", counts and failures <= KNOWN[kind], f"{counts and counts[0]}; {sorted(failures)}")
        report.case("nothing is left", gateway.is_idle(15), gateway.status())
    report.end()


if __name__ == "__main__":
    main()
