#!/usr/bin/env python3
"""Tokens of another implementation, PyJWT: every algorithm is let in by its key, and none of many mutated ones is.

usage: tokens_real.py BINARY [WORD...]; needs: pip install pyjwt cryptography h2
"""

import base64
import hmac
import http.client
import json
import os
import random
import socket
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from real import FOLDER, Gateway, case, main, same

SECRET = "a secret of sixty-four letters, as HS512 wants a key of its length"
PAIRS = {
    "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}
KEY_OF = {
    "HS256": "secret", "HS384": "secret", "HS512": "secret",
    "RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa",
    "ES256": "p256", "ES384": "p384", "EdDSA": "ed",
}  # fmt: skip
MUTATIONS = 2000


def private(algorithm):
    return SECRET if KEY_OF[algorithm] == "secret" else PAIRS[KEY_OF[algorithm]]


def write(name, content):
    with open(f"{FOLDER.name}/{name}", "wb") as f:
        f.write(content)
    return f"{FOLDER.name}/{name}"


def key_files():
    """A PEM file for each pair, and a JWKS file as PyJWT writes keys."""
    spki = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    pems = {name: write(f"{name}.pem", pair.public_key().public_bytes(*spki)) for name, pair in PAIRS.items()}
    keys = []
    for algorithm, name in KEY_OF.items():
        if name != "secret":
            key = jwt.algorithms.get_default_algorithms()[algorithm].to_jwk(PAIRS[name].public_key(), as_dict=True)
            keys.append({**key, "kid": algorithm, "alg": algorithm, "use": "sig"})
    return pems, write("jwks.json", json.dumps({"keys": keys}).encode())


PEMS, JWKS = key_files()


def gateway():
    """Route /ALGORITHM by secret or PEM, /jwks by the JWKS file."""
    methods, routes = [], []
    for algorithm, name in KEY_OF.items():
        key = f'secret: "{SECRET}"' if name == "secret" else f"public_key: {PEMS[name]}"
        methods.append(f"  {algorithm.lower()}: {{ jwt: {{ issuer: https://issuer.test, audience: [desk], algorithms: [{algorithm}], {key} }} }}")
        routes.append(f"  - {{ path: /{algorithm}, auth: [{algorithm.lower()}], respond: {{ body: \"${{identity}}\" }} }}")
    asymmetric = ", ".join(algorithm for algorithm, name in KEY_OF.items() if name != "secret")
    methods.append(f"  jwks: {{ jwt: {{ issuer: https://issuer.test, audience: [desk], algorithms: [{asymmetric}], jwks: {JWKS} }} }}")
    routes.append('  - { path: /jwks, auth: [jwks], respond: { body: "${identity}" } }')
    return Gateway(1, routes="\n" + "\n".join(routes) + "\nauth:\n" + "\n".join(methods))


def ask(client, path, token):
    client.request("GET", path, headers={"Authorization": f"Bearer {token}"})
    answer = client.getresponse()
    return answer.status, answer.read().decode(errors="replace")


def token(algorithm, headers=None, **claims):
    body = {"iss": "https://issuer.test", "aud": "desk", "sub": "ada", "exp": int(time.time()) + 600, **claims}
    return jwt.encode(body, private(algorithm), algorithm, headers=headers)


@case
def every_algorithm_is_let_in():
    with gateway() as g:
        client = http.client.HTTPConnection("127.0.0.1", g.plain, timeout=10)
        for algorithm, name in KEY_OF.items():
            same(ask(client, f"/{algorithm}", token(algorithm)), (200, "ada"), algorithm)
            if name != "secret":
                same(ask(client, "/jwks", token(algorithm, {"kid": algorithm})), (200, "ada"), f"{algorithm} by kid")
    return f"{len(KEY_OF)} by key, {len(KEY_OF) - 3} by kid"


@case
def claims_decide():
    cases = {
        "token_expired": {"exp": int(time.time()) - 3600},
        "token_not_yet_valid": {"nbf": int(time.time()) + 3600},
        "token_issuer": {"iss": "https://other.test"},
        "token_audience": {"aud": ["other"]},
    }
    with gateway() as g:
        client = http.client.HTTPConnection("127.0.0.1", g.plain, timeout=10)
        for algorithm in KEY_OF:
            same(ask(client, f"/{algorithm}", token(algorithm, aud=["other", "desk"]))[0], 200, algorithm)
            for code, claims in cases.items():
                status, body = ask(client, f"/{algorithm}", token(algorithm, **claims))
                same((status, json.loads(body)["code"]), (401, code), algorithm)
    return f"{len(KEY_OF)} algorithms, {len(cases)} refusals each"


@case
def keys_and_algorithms_are_not_mixed():
    """A public key as an HMAC secret, another algorithm of the same key, no algorithm, another key of the same kind."""
    with gateway() as g:
        client = http.client.HTTPConnection("127.0.0.1", g.plain, timeout=10)
        body = {"iss": "https://issuer.test", "aud": "desk", "sub": "eve", "exp": int(time.time()) + 600}
        encode = lambda part: base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()  # noqa: E731
        tried = 0
        for algorithm, name in KEY_OF.items():
            forged = [f"{encode({'alg': none, 'typ': 'JWT'})}.{encode(body)}." for none in ("none", "None", "NONE", "nOnE", "")]
            forged += [token(other, sub="eve") for other in KEY_OF if other != algorithm]
            if name != "secret":
                with open(PEMS[name], "rb") as pem:
                    raw = pem.read()
                hmac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
                for key in (raw, raw.strip(), raw.replace(b"\n", b"\r\n")):
                    signed = f"{encode({'alg': 'HS256', 'typ': 'JWT', 'kid': algorithm})}.{encode(body)}"
                    forged.append(signed + "." + base64.urlsafe_b64encode(hmac.sign(signed.encode(), key)).rstrip(b"=").decode())
            for one in forged:
                for path in (f"/{algorithm}", "/jwks"):
                    if path == "/jwks" and KEY_OF.get(jwt.get_unverified_header(one).get("alg")) not in (None, "secret"):
                        continue  # rightly let in there
                    same(ask(client, path, one)[0], 401, f"{algorithm} {path} {one[:40]}")
                    tried += 1
    return f"{tried} forged tokens"


def mutated(random, good):
    """A change of bits, letters, parts or claims; never the token itself."""
    parts = good.split(".")
    kind = random.randrange(7)
    if kind == 0:  # one letter
        at = random.randrange(len(good))
        return good[:at] + random.choice("ABCxyz019-_.=+/") + good[at + 1 :]
    if kind == 1:  # one bit of the decoded part
        at = random.randrange(3)
        raw = bytearray(base64.urlsafe_b64decode(parts[at] + "=="))
        raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
        parts[at] = base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode()
    elif kind == 2:  # padding, or the other alphabet
        parts[random.randrange(3)] += random.choice(["=", "==", "A", "+", " "])
    elif kind == 3:  # parts lost, doubled or exchanged
        return random.choice([".".join(parts[:2]), ".".join(parts + parts[2:]), ".".join([parts[1], parts[0], parts[2]]), ".".join(parts[:2]) + "."])
    elif kind == 4:  # other claims under the same signature
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
        claims[random.choice(["sub", "aud", "exp", "admin"])] = random.choice(["root", 1, None, True, [], {}])
        parts[1] = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    elif kind == 5:  # another header under the same signature
        header = json.loads(base64.urlsafe_b64decode(parts[0] + "=="))
        header[random.choice(["alg", "crit", "jwk", "jku", "x5u", "kid", "typ"])] = random.choice(["none", ["x"], {}, "x"])
        parts[0] = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    else:  # a cut one
        return good[: random.randrange(len(good))]
    return ".".join(parts)


@case
def no_mutated_token_gets_in():
    seed = random.randrange(1 << 32)
    chance, tried = random.Random(seed), 0
    with gateway() as g:
        client = http.client.HTTPConnection("127.0.0.1", g.plain, timeout=10)
        for number in range(MUTATIONS):
            algorithm = list(KEY_OF)[number % len(KEY_OF)]
            good = token(algorithm)
            bad = mutated(chance, good)
            if bad.strip() == good:  # blanks around a value are not part of it
                continue
            # Seen first, a good one is remembered: what resembles it must not be taken for it.
            same(ask(client, f"/{algorithm}", good)[0], 200, f"seed {seed}: the good one")
            status, _ = ask(client, f"/{algorithm}", bad)
            assert status in (400, 401), f"seed {seed}, {algorithm}: {status} for {bad}"
            tried += 1
        assert g.process.poll() is None
    return f"{tried} mutated tokens, seed {seed}"


@case
def memory_does_not_grow_with_the_number_of_tokens():
    """TOKENS says how many; what is remembered of one takes some 1.5 KiB, of 32,768 at most."""
    count, batch = int(os.environ.get("TOKENS", "200000")), 100
    secret, head = SECRET.encode(), base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")

    def signed(number):
        body = {"iss": "https://issuer.test", "aud": "desk", "sub": f"user-{number}", "exp": int(time.time()) + 3600, "jti": str(number)}
        text = head + b"." + base64.urlsafe_b64encode(json.dumps(body).encode()).rstrip(b"=")
        return text + b"." + base64.urlsafe_b64encode(hmac.digest(secret, text, "sha256")).rstrip(b"=")

    with gateway() as g, socket.create_connection(("127.0.0.1", g.plain), timeout=30) as sock, sock.makefile("rb") as answers:
        before = g.rss()
        for first in range(0, count, batch):
            requests = (b"GET /HS256 HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer " + signed(n) + b"\r\n\r\n" for n in range(first, first + batch))
            sock.sendall(b"".join(requests))
            for number in range(first, first + batch):
                same(answers.readline()[9:12], b"200", f"token {number}")
                length = 0
                while (line := answers.readline()) != b"\r\n":
                    length = int(line[15:]) if line.lower().startswith(b"content-length:") else length
                same(answers.read(length), f"user-{number}".encode())
        grown = g.rss(peak=True) - before
        assert grown < 120, f"{grown} MiB"
    return f"{count} tokens, +{grown} MiB at most"


main()
