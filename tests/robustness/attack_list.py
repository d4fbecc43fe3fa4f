"""What a server is attacked with, and what each attack may get."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from attacked import Target

from medimg.serving.requests import MAX_BODY

MIB = 2**20


@dataclass(frozen=True)
class Attack:
    """One way to harm a server.

    Attributes:
        name: What is done.
        run: Does it and tells what it got, in words.
        may_get: A regular expression of the whole of that.
        seconds: How long it takes, about.
    """

    name: str
    run: Callable[[Target], str]
    may_get: str
    seconds: float = 0.1

    def succeeds(self, got: str) -> bool:
        """Tells whether the server gave more than it may."""
        return re.fullmatch(self.may_get, got) is None


ATTACKS: list[Attack] = []


def attack(name: str, may_get: str, *, seconds: float = 0.1) -> Callable[[Callable[[Target], str]], None]:
    """Puts a function on the list."""
    return lambda run: ATTACKS.append(Attack(name, run, may_get, seconds))


def request(target: Target, line: str, *headers: str, body: bytes = b"", key: bool = True) -> bytes:
    """Returns a request as it travels, with the key unless that is not wanted."""
    given = [f"Host: 127.0.0.1:{target.port}", *([f"Authorization: Bearer {target.key}"] if key else []), *headers]
    return "\r\n".join([line, *given, "", ""]).encode("latin-1") + body


def post(target: Target, *headers: str, body: bytes = b"", key: bool = True) -> bytes:
    """Returns a POST of an image as it travels."""
    return request(target, "POST /predict HTTP/1.1", *headers, body=body, key=key)


def tally(found: Iterator[str] | list[str]) -> str:
    """Returns each answer once, with how often it came where that was more than once."""
    return "; ".join(got if count == 1 else f"{count:,} × {got}" for got, count in sorted(Counter(found).items()))


# -- without the right to ask -----------------------------------------------------------------------------------------


def _refused(name: str, may_get: str, method: str = "POST", path: str = "/predict", **headers: str) -> None:
    def run(target: Target) -> str:
        names = {
            "key": target.key, "ended": target.ended, "session": target.session, "expired": target.expired,
            "orphan": target.orphan, "hash": target.file.read()[0].hash, "port": str(target.port),
        }  # fmt: skip
        given = {header: value.format(**names) for header, value in headers.items()}
        return str(target.ask(method, path, target.image if method == "POST" else None, **given)[0])

    ATTACKS.append(Attack(name, run, may_get))


_refused("no key", "401")
_refused("wrong key", "401|429", Authorization="Bearer wrong")
_refused("key in another scheme", "401", Authorization="Basic {key}")
_refused("key in the address", "401", path="/predict?key=wrong")
_refused("revoked key", "401|429", Authorization="Bearer {ended}")
_refused("hash of a key as the key", "401|429", x_api_key="{hash}")
_refused("expired session", "401", Cookie="{expired}", Sec_Fetch_Site="same-origin")
_refused("session of a revoked key", "401", Cookie="{orphan}", Sec_Fetch_Site="same-origin")
_refused("forged session", "401", Cookie="{session}A", Sec_Fetch_Site="same-origin")
_refused("good session, from another site's page", "403", Cookie="{session}", Origin="https://evil.example")
_refused("good session, from another port's page", "403", Cookie="{session}", Sec_Fetch_Site="same-site")
_refused("good session, from nowhere", "403", Cookie="{session}")
_refused("preflight of another site's page", "403", "OPTIONS", Origin="https://evil.example")
_refused("DNS rebinding", "403", Host="evil.example:{port}", Authorization="Bearer {key}")
for _path in ("/model", "/health", "/metrics", "/docs", "/openapi.json", "/explain", "/nowhere"):
    _refused(f"{_path} without a key", "401", "GET", path=_path)


@attack("2,000 wrong keys, and the right one between them", r"\d+ × 401; 1,\d+ × 429; 20 × right: 200", seconds=6)
def _guessing(target: Target) -> str:
    def guess(number: int) -> str:
        if number % 100 == 0:
            return f"right: {target.post(target.image)}"
        return str(target.ask("POST", "/predict", b"x", Authorization=f"Bearer guess{number}")[0])

    with ThreadPoolExecutor(8) as pool:
        return tally(list(pool.map(guess, range(2000))))


# -- too much ---------------------------------------------------------------------------------------------------------


@attack("10 GB declared, none sent", "413, (closed|open)( after . s)?")
def _declared(target: Target) -> str:
    return target.say(post(target, "Content-Length: 10000000000"), seconds=3, statuses=1)


@attack("10 GB declared without a key", "401, (closed|open)( after . s)?")
def _declared_without_key(target: Target) -> str:
    return target.say(post(target, "Content-Length: 10000000000", key=False), seconds=3, statuses=1)


@attack("100 MB in chunks of no declared length", "(413, )?(closed|open).*", seconds=2)
def _in_chunks(target: Target) -> str:
    piece = b"100000\r\n" + bytes(MIB) + b"\r\n"
    return target.say(post(target, "Transfer-Encoding: chunked"), *[piece] * 100, seconds=5, statuses=1)


@attack("a body larger than the limit", "413 too-large", seconds=2)
def _too_large(target: Target) -> str:
    return target.post(bytes(MAX_BODY + 1))


@attack("a million chunks of one byte", "415, (closed|open).*", seconds=4)
def _tiny_chunks(target: Target) -> str:
    parts = [b"1\r\nx\r\n" * 10_000] * 100
    return target.say(post(target, "Transfer-Encoding: chunked"), *parts, b"0\r\n\r\n", seconds=10, statuses=1)


def _bomb(width: int, height: int, rows: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(rows * (3 * width + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@attack("PNG of 3.6 gigapixels in 1 kB", "415 too-many-pixels|415 .*")
def _pixels(target: Target) -> str:
    return target.post(_bomb(60_000, 60_000, 1))


@attack("eight PNG of 64 megapixels in 190 kB each, at once", r"8 × (200|415.*|503.*)|.*", seconds=6)
def _many_pixels(target: Target) -> str:
    file = _bomb(8_000, 8_000, 8_000)
    with ThreadPoolExecutor(8) as pool:
        return tally(list(pool.map(target.post, [file] * 8)))


# -- too slow ---------------------------------------------------------------------------------------------------------


@attack("a header that never ends, a byte a second", r"(408, )?closed after \d+ s", seconds=30)
def _slow_header(target: Target) -> str:
    return target.say(b"POST /predict HTTP/1.1\r\nX: ", *[b"a"] * 150, pause=1.0, seconds=1)


@attack("a body that never ends, a byte a second", r"(408, )?closed after \d+ s", seconds=150)
def _slow_body(target: Target) -> str:
    return target.say(post(target, "Content-Length: 100000"), *[b"a"] * 150, pause=1.0, seconds=1)


@attack("a body that is promised and never sent", r"(408, )?closed after \d+ s", seconds=30)
def _no_body(target: Target) -> str:
    return target.say(post(target, "Content-Length: 100000"), seconds=150)


@attack("a connection on which nothing is said", r"(408, )?closed after \d+ s", seconds=30)
def _silence(target: Target) -> str:
    return target.say(seconds=60)


@attack("1,000 connections on which nothing is said", "others are answered", seconds=4)
def _idle(target: Target) -> str:
    with _connections(target, 1000):
        return "others are answered" if target.answers() else "nobody is answered"


@attack("1,000 bodies that are promised and never sent", "others are answered", seconds=4)
def _idle_bodies(target: Target) -> str:
    with _connections(target, 1000) as lines:
        for line in lines:
            line.sendall(post(target, "Content-Length: 100000", body=b"\xff\xd8"))
        time.sleep(0.5)
        return "others are answered" if target.answers() else "nobody is answered"


@contextlib.contextmanager
def _connections(target: Target, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as held:
        yield [held.enter_context(socket.create_connection(("127.0.0.1", target.port), 10)) for _ in range(count)]


# -- paths ------------------------------------------------------------------------------------------------------------

PATHS = (
    "/page/../keys.json", "/page/%2e%2e/keys.json", "/page/..%2f..%2fkeys.json", "/page/....//keys.json",
    "/page//etc/passwd", "/page/%00", "/page/page.js%00.png", "/page/..\\keys.json", "/page/%5c..%5ckeys.json",
    "/page/%252e%252e/keys.json", "/page/%c0%ae%c0%ae/keys.json", "/page/" + "a" * 4000, "//model", "/./model",
    "/page/../model", "/%6dodel", "/model;x", "/model%20", "/MODEL", "/page/.", "/page/", "*", "/page/\xff",
    "http://evil.example/model", "model", "/ping/../model", "/ready%2f..%2fmodel", "/page/%ff%fe",
)  # fmt: skip


@attack(
    f"{len(PATHS)} ways to write a path, without a key", r"((\d+ × )?(400|401|403|404|405|414), (open|closed)(; )?)+"
)
def _paths(target: Target) -> str:
    return tally([
        target.say(request(target, f"GET {path} HTTP/1.1", key=False), seconds=2, statuses=1) for path in PATHS
    ])  # fmt: skip


# -- headers ----------------------------------------------------------------------------------------------------------


@attack("10,000 headers", "(400|431), (closed|open)|closed")
def _many_headers(target: Target) -> str:
    many = [f"X-{number}: a" for number in range(10_000)]
    return target.say(request(target, "GET /ping HTTP/1.1", *many), seconds=3, statuses=1)


@attack("one header of 1 MB", "(400|431), (closed|open)|closed")
def _large_header(target: Target) -> str:
    return target.say(request(target, "GET /ping HTTP/1.1", f"X: {'a' * MIB}"), seconds=3, statuses=1)


@attack("a header of 200 MB that never ends", "((400|431), )?closed", seconds=2)
def _endless_header(target: Target) -> str:
    return target.say(b"GET /ping HTTP/1.1\r\nX: ", *[b"a" * MIB] * 200, seconds=3)


@attack("an address of 1 MB", "(400|414|431), (closed|open)|closed")
def _large_address(target: Target) -> str:
    return target.say(request(target, f"GET /{'a' * MIB} HTTP/1.1"), seconds=3, statuses=1)


@attack("headers after the body, without end", "((400|431|415), )?closed", seconds=3)
def _trailers(target: Target) -> str:
    start = post(target, "Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\n")
    return target.say(start, *[f"X-{number}: {'a' * 60_000}\r\n".encode() for number in range(2000)], seconds=3)


# -- smuggling: two readers of one stream must not see different requests ---------------------------------------------

_HIDDEN = b"GET /model HTTP/1.1\r\nHost: x\r\n\r\n"


def _smuggle(name: str, *headers: str, body: bytes = b"0\r\n\r\n" + _HIDDEN, may_get: str = "(400, )?closed") -> None:
    def run(target: Target) -> str:
        return target.say(post(target, *headers, body=body), seconds=2, statuses=2)

    ATTACKS.append(Attack(f"smuggling: {name}", run, may_get))


_smuggle("length and chunks", f"Content-Length: {5 + len(_HIDDEN)}", "Transfer-Encoding: chunked")
_smuggle("chunks and length", "Transfer-Encoding: chunked", "Content-Length: 4")
_smuggle("two lengths", "Content-Length: 5", f"Content-Length: {5 + len(_HIDDEN)}")
_smuggle("two lengths in one", "Content-Length: 5, 6")
_smuggle("length with a sign", "Content-Length: +5")
_smuggle("negative length", "Content-Length: -1")
_smuggle("length beyond 64 bits", "Content-Length: 18446744073709551621")
_smuggle("length in base 16", "Content-Length: 0x5")
_smuggle("chunked, then not", "Transfer-Encoding: chunked, identity", may_get="(400, )?closed|4.., closed")
_smuggle("chunked in other letters", "Transfer-Encoding: xchunked", may_get="(400, )?closed|4.., closed")
_smuggle("a blank before the colon", "Transfer-Encoding : chunked", "Content-Length: 5")
_smuggle("a header over two lines", "X: a\r\n Transfer-Encoding: chunked", "Content-Length: 5")
_smuggle("a line that ends in LF alone", "X: a\nTransfer-Encoding: chunked", "Content-Length: 5")
_smuggle("a line that ends in CR alone", "X: a\rTransfer-Encoding: chunked", "Content-Length: 5")
_smuggle("a null in a header", "X: a\0b", "Content-Length: 5")
_smuggle("a chunk's size beyond 64 bits", "Transfer-Encoding: chunked", body=b"FFFFFFFFFFFFFFFFF\r\nx")
_smuggle("a chunk's size with a sign", "Transfer-Encoding: chunked", body=b"-1\r\nx\r\n0\r\n\r\n")
_smuggle("a chunk longer than its size", "Transfer-Encoding: chunked", body=b"1\r\nxx\r\n0\r\n\r\n")


# -- bodies that are built to be dear ---------------------------------------------------------------------------------


def _body(name: str, may_get: str, body: Callable[[], bytes], kind: str = "application/json") -> None:
    ATTACKS.append(Attack(name, lambda target: target.post(body(), kind), may_get, 1.0))


_body("JSON that is not UTF-8", "400 bad-request", lambda: b'{"image": "\xff\xfe"}')
_body("JSON in a million brackets", "400 bad-request", lambda: b'{"image": ' + b"[" * 1_000_000)
_body("JSON with a number of ten million digits", "400 bad-request", lambda: b'{"image": ' + b"9" * 10_000_000 + b"}")
_body("JSON of a million names", "400 bad-request", lambda: json.dumps({str(n): n for n in range(1_000_000)}).encode())
_body("JSON with half a character", "400 bad-request", lambda: b'{"image": "\\ud800"}')
_body("10,000 images in one request", "4(00|13) .*", lambda: json.dumps({"images": ["AAAA"] * 10_000}).encode())
_body("JSON of 60 MB of empty objects", "400 bad-request", lambda: b'{"x": [' + b"{}," * 20_000_000 + b"0]}")
_body("base64 of 40 MB of blanks", "4(00|13|15) .*", lambda: b'{"image": "' + b" " * 40_000_000 + b'"}')


@attack("eight bodies of 60 MB of base64 at once", r"(\d × )?(4|503).*", seconds=8)
def _large_at_once(target: Target) -> str:
    body = b'{"image": "' + b"A" * 60_000_000 + b'"}'
    with ThreadPoolExecutor(8) as pool:
        return tally(list(pool.map(lambda _: target.post(body, "application/json"), range(8))))


_PART = b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\n\r\n'
_FORM = "multipart/form-data; boundary=x"
_body("a form of 100,000 files", "4(00|13) .*", lambda: _PART * 100_000 + b"--x--\r\n", _FORM)
_body("a form of 60 MB of boundaries", "400 bad-request", lambda: b"\r\n--x" * 12_000_000, _FORM)
_body("a form's part with a header of 1 MB", "400 bad-request", lambda: b"--x\r\nA: " + b"a" * MIB + b"\r\n\r\n", _FORM)
_body("a form without a boundary", "400 bad-request", lambda: _PART, "multipart/form-data")
_body("a form whose boundary is 60 kB", "4.*", lambda: _PART, f"multipart/form-data; boundary={'x' * 60_000}")


# -- addresses to fetch from ------------------------------------------------------------------------------------------

URLS = (
    "https://127.0.0.1/", "https://localhost/", "https://localhost:22/", "https://[::1]/", "https://2130706433/",
    "https://0177.0.0.1/", "https://0x7f.1/", "https://127.1/", "https://[::ffff:127.0.0.1]/", "https://0/",
    "https://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/", "https://metadata.google.internal/",
    "https://168.63.129.16/", "https://100.100.100.200/", "http://localhost/", "file:///etc/passwd", "gopher://localhost/",
    "https://user@localhost/", "https://localhost@evil.example/", "https://localhost\\@evil.example/",
    "https://evil.example#@localhost/", "https://localhost%00.evil.example/", "https://LOCALHOST./", "https://ⓛocalhost/",
)  # fmt: skip


@attack(f"{len(URLS)} URLs into the network, 'localhost' being allowed", rf"{len(URLS)} × 403 url-refused", seconds=1)
def _urls(target: Target) -> str:
    return tally([target.post(json.dumps({"url": url}).encode(), "application/json") for url in URLS])


# -- manners ----------------------------------------------------------------------------------------------------------


@attack("Range", "200")
def _range(target: Target) -> str:
    headers = {"Authorization": f"Bearer {target.key}", "Range": "bytes=0-0,1-1,2-2"}
    return str(target.ask("POST", "/predict", target.image, **headers)[0])


@attack("Expect: 100-continue, and nothing comes", r"(100, )?(408, )?closed after \d+ s", seconds=30)
def _expect(target: Target) -> str:
    return target.say(post(target, "Content-Length: 5", "Expect: 100-continue"), seconds=150)


@attack("Expect: something else", "(200|400|417), (open|closed)")
def _expect_else(target: Target) -> str:
    image = target.image
    return target.say(post(target, f"Content-Length: {len(image)}", "Expect: x", body=image), seconds=5, statuses=1)


@attack("an upgrade to a WebSocket", "4.., (open|closed)|400, closed")
def _upgrade(target: Target) -> str:
    wanted = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZQ==",
        "Sec-WebSocket-Version: 13",
    )
    return target.say(request(target, "GET /x HTTP/1.1", *wanted), seconds=3, statuses=1)


@attack("HTTP/2, TLS, HTTP/0.9 and noise in place of HTTP", r"4 × (400, )?closed|.*× (400, )?closed; closed|.*closed")
def _not_http(target: Target) -> str:
    spoken = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes.fromhex("16030100c8010000c40303") + bytes(200),
        b"GET /\r\n",
        bytes(range(256)),
    )
    return tally([target.say(said, seconds=2, over=True) for said in spoken])


@attack("TRACE, CONNECT, PUT, PATCH, DELETE and a method of our own", r"((\d+ × )?4.., (open|closed)(; )?)+")
def _methods(target: Target) -> str:
    methods = ("TRACE", "CONNECT", "PUT", "PATCH", "DELETE", "BREW")
    return tally([target.say(request(target, f"{name} /predict HTTP/1.1"), seconds=2, statuses=1) for name in methods])


@attack("5,000 requests at once on one connection", r"(.*200, )?closed", seconds=1)
def _pipelined(target: Target) -> str:
    return target.say(request(target, "GET /ping HTTP/1.1", key=False) * 5000, seconds=10, statuses=5000)


@attack("500 connections that are reset in the middle of a body", "others are answered", seconds=3)
def _reset(target: Target) -> str:
    for _ in range(500):
        with socket.create_connection(("127.0.0.1", target.port), 10) as line:
            line.sendall(post(target, f"Content-Length: {len(target.image)}", body=target.image[:-1]))
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return "others are answered" if target.answers() else "nobody is answered"
