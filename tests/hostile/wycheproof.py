"""Wycheproof's vectors for JSON Web Signatures and Keys. `python3 wycheproof.py BINARY FOLDER`

FOLDER has `*json_web_signature_test.json` and `*json_web_key_test.json` of C2SP/wycheproof. Most payloads are no claims, so nobody is let
in by them: that a signature was believed shows in `token_malformed`, which a token whose three parts can be read gets behind its signature
only. A set of keys that is refused when it is loaded lets nobody in either.
"""

import base64
import json

from common import *

ROUTES = """
listeners: [{ name: plain, bind: 127.0.0.1:0 }]
auth:
AUTH
routes:
ROUTES
"""
# Vectors of the signatures that are decided otherwise here, and why.
DISPUTED = {
    346: "the key says that it is for PS256, the token PS384",
    347: "ES512 is not among the algorithms",
    350: "the key says that it is for PS256, the token PS384",
    351: "ES512 is not among the algorithms",
    367: "the token has no padding, and is the same as a valid one",
    370: "the token has no padding, and is the same as a valid one",
    372: "a `?` is no letter of base64url (RFC 7515, 2)",
    373: "a `?` is no letter of base64url (RFC 7515, 2)",
}


def decoded(part):
    """The bytes of a part in base64url, if it is the one text for them."""
    try:
        found = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        return None
    return found if base64.urlsafe_b64encode(found).rstrip(b"=").decode() == part else None


def is_readable(token):
    parts = [decoded(part) for part in token.split(".")]
    if len(parts) != 3 or None in parts or not parts[2]:
        return False
    try:
        head = json.loads(parts[0])
    except ValueError:
        return False
    names = [name for name, _ in json.loads(parts[0], object_pairs_hook=list)] if isinstance(head, dict) else []
    known = isinstance(head, dict) and isinstance(head.get("alg"), str) and isinstance(head.get("kid", ""), str)
    return known and len(set(names)) == len(names) and not set(names) & {"crit", "b64", "jwk", "jku", "x5u"}


def loads(binary, folder, name):
    path = folder / f"{name}.yaml"
    path.write_text(yaml_of({name: folder / f"{name}.json"}))
    return subprocess.run([binary, "check", "-c", path], capture_output=True).returncode == 0


def yaml_of(sets):
    auth = "".join(f"  {name}: {{ jwt: {{ jwks: {path}, require_claims: [] }} }}\n" for name, path in sets.items())
    routes = "".join(f"  - {{ path: /{name}, auth: {name}, respond: {{}} }}\n" for name in sets)
    return ROUTES.replace("AUTH", auth).replace("ROUTES", routes)


def is_believed(gateway, name, token):
    if not token.isascii() or not token.isprintable():
        return False, "can't stand in a field"
    with contextlib.closing(gateway.connect("plain", timeout=5)) as sock, sock.makefile("rb") as stream:
        sock.sendall(get(f"/{name}".encode(), b"Authorization: Bearer " + token.encode() + b"\r\nConnection: close\r\n"))
        text = stream.read()
    code = (re.search(rb'"code":"(\w+)"', text) or [b"", b"let in"])[1].decode()
    return code == "let in" or (code == "token_malformed" and is_readable(token)), code


def main():
    report, folder = Report(), pathlib.Path(tempfile.mkdtemp())
    report.only, groups, sets = "", {}, {}
    for file in sorted(pathlib.Path(sys.argv[2]).glob("*json_web_*_test.json")):
        for number, group in enumerate(json.loads(file.read_text())["testGroups"]):
            name = f"{'k' if '_key_' in file.name else 's'}{number}"
            keys = group.get("public") or group["private"]
            (folder / f"{name}.json").write_text(json.dumps(keys if "keys" in keys else {"keys": [keys]}))
            groups[name] = group
            if loads(sys.argv[1], folder, name):
                sets[name] = folder / f"{name}.json"
    counts = collections.Counter()
    with Gateway(yaml_of(sets)) as gateway:
        for name, group in groups.items():
            for test in group["tests"]:
                token = test["jws"] if isinstance(test["jws"], str) else json.dumps(test["jws"])
                believed, code = is_believed(gateway, name, token) if name in sets else (False, "the key is refused")
                right = believed == (test["result"] == "valid")
                counts[test["result"], right] += 1
                if not right:
                    why = DISPUTED.get(test["tcId"], "") if name.startswith("s") else ""
                    seen = f"{test['result']}, but {code}{why and ': ' + why}"
                    report.case(f"{name} {group['comment']} {test['tcId']} {test['comment']}", False, seen, lax=bool(why))
    for result in ("valid", "invalid"):
        print(f"{result}: {counts[result, True]} of {counts[result, True] + counts[result, False]}")
    report.case("all but those are decided as they are", report.failed == 0)
    report.end()


if __name__ == "__main__":
    main()
