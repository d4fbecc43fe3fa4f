"""Images by their URL: from the hosts on the list and nowhere else, over real TLS on this machine."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from medimg.errors import ConfigError
from medimg.serving.requests import RequestRefused
from medimg.serving.urls import UrlFetcher, is_public, resolve

HOST = "images.test"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"


def certificate(folder: Path, host: str) -> Path:
    """Returns a file with a key and a certificate of a host that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / f"{host}.pem"
    path.write_bytes(plain + signed.public_bytes(serialization.Encoding.PEM))
    return path


@dataclass
class Site:
    """A TLS server; `reply` writes the answer to each request."""

    listening: socket.socket
    context: ssl.SSLContext
    reply: Callable[[ssl.SSLSocket], None] = lambda connection: connection.sendall(OK + b"\r\nimage")
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    names: list[str | None] = field(default_factory=list)

    def serve(self) -> None:
        """Answers until the socket is closed."""
        while True:
            try:
                plain, _ = self.listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(plain,), daemon=True).start()

    def _answer(self, plain: socket.socket) -> None:
        try:
            with self.context.wrap_socket(plain, server_side=True) as connection:
                self.requests.append(connection.recv(65536))
                self.reply(connection)
        except OSError:
            pass
        finally:
            plain.close()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of the host."""
    return certificate(tmp_path_factory.mktemp("tls"), HOST)


@pytest.fixture
def start(pem: Path) -> Iterator[Callable[..., Site]]:
    """Starts sites at addresses of this machine; all end with the test."""
    started: list[Site] = []

    def begin(address: str = "127.0.0.1", port: int = 0) -> Site:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        site = Site(socket.create_server((address, port)), context)
        context.sni_callback = lambda _, name, __: site.names.append(name)
        started.append(site)
        threading.Thread(target=site.serve, daemon=True).start()
        return site

    yield begin
    for site in started:
        site.listening.shutdown(socket.SHUT_RDWR)
        site.listening.close()


@pytest.fixture
def site(start: Callable[..., Site]) -> Site:
    """One site."""
    return start()


def fetcher(
    site: Site,
    pem: Path,
    *,
    addresses: Callable[[str, int], list[str]] = lambda *_: ["127.0.0.1"],
    permitted: Callable[[str], bool] = lambda _: True,
    max_seconds: float = 10,
) -> UrlFetcher:
    """Returns a fetcher that finds the site under the host's name and trusts its certificate."""
    return UrlFetcher(
        [HOST],
        max_seconds=max_seconds,
        resolve=addresses,
        permitted=permitted,
        port=site.listening.getsockname()[1],
        context=ssl.create_default_context(cafile=str(pem)),
    )


def test_an_image_of_a_host_on_the_list_is_fetched(site: Site, pem: Path) -> None:
    """By its name for TLS and for HTTP, with the path as it was given, and nothing of ours in the request."""
    found = fetcher(site, pem)(f"https://{HOST}/a%20b/c.png?id=1&x=ä#part", 100)
    assert found == b"image"
    head, *headers = site.requests[0].decode().split("\r\n")
    assert head == "GET /a%20b/c.png?id=1&x=%C3%A4 HTTP/1.1"
    assert f"Host: {HOST}" in headers
    assert not [line for line in headers if line.lower().startswith(("authorization", "cookie", "referer"))]
    assert site.names == [HOST]


@pytest.mark.parametrize(
    "url",
    [
        "http://images.test/1.png",
        "ftp://images.test/1.png",
        "file:///etc/passwd",
        "//images.test/1.png",
        "images.test/1.png",
        "https://other.test/1.png",
        "https://sub.images.test/1.png",
        "https://images.test.evil.example/1.png",
        "https://evil.example/images.test",
        "https://user@images.test/1.png",
        "https://user:word@images.test/1.png",
        "https://images.test@evil.example/1.png",
        "https://evil.example\\@images.test/1.png",
        "https://images.test\\.evil.example/",
        "https://images.test:8443/1.png",
        "https://images.test:99999/1.png",
        "https://images.test:x/1.png",
        "https://images.test\r\nHost: evil.example/1.png",
        "https://images.test/1.png HTTP/1.1\r\nX: y",
        "https://images.test/\x00",
        "https://images.te\tst/1.png",
        "https://[::1]/1.png",
        "https://[images.test/1.png",
        "https://127.0.0.1/1.png",
        "https://0x7f.1/1.png",
        "https://2130706433/1.png",
        "https://images.test../1.png",
        "https://images%2etest/1.png",
        "https:///1.png",
        "https://images.test/" + "a" * 3000,
        "",
    ],
)
def test_any_other_url_is_refused_and_nothing_is_asked(site: Site, pem: Path, url: str) -> None:
    """Neither a name server nor a host hears of it."""

    def unasked(host: str, port: int) -> list[str]:
        raise AssertionError(f"{host} was looked up")

    with pytest.raises(RequestRefused) as caught:
        fetcher(site, pem, addresses=unasked)(url, 100)
    assert (caught.value.status, caught.value.code) == (403, "url-refused")
    assert site.connections == 0


@pytest.mark.parametrize("host", ["IMAGES.test", "images.test.", "images。test", "ｉｍａｇｅｓ.test"])
def test_the_same_name_in_another_spelling_is_the_same_host(site: Site, pem: Path, host: str) -> None:
    """Case, the root's dot, and the wide letters that IDNA folds."""
    assert fetcher(site, pem)(f"https://{host}/", 100) == b"image"


def test_a_host_in_other_letters_is_compared_as_dns_does() -> None:
    """Whichever spelling is on the list."""
    assert UrlFetcher(["bücher.example"]).hosts == UrlFetcher(["XN--BCHER-KVA.example."]).hosts


@pytest.mark.parametrize("host", ["https://images.test", "images.test/x", "", "*.test", "::1", "a b", "a..b", "x" * 64])
def test_what_is_no_host_cannot_be_on_the_list(host: str) -> None:
    """Wildcards neither."""
    with pytest.raises(ConfigError, match=r"images\.example\.org"):
        UrlFetcher([host])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "169.254.170.2",
        "0.0.0.0", "100.64.0.1", "100.100.100.200",  # noqa: S104 - nothing binds to it
        "168.63.129.16", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1",
        "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
        "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "2001::1", "::127.0.0.1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1",
        "64:ff9b:1::1", "2002:7f00:1::1", "2002:a9fe:a9fe::", "", "images.test", "1.2.3",
    ],
)  # fmt: skip
def test_addresses_inside_a_network_are_not_public(address: str) -> None:
    """Private, loopback, link-local, carrier-grade NAT, metadata, multicast, reserved; also inside of IPv6."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    """In IPv4 and IPv6."""
    assert is_public(address)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["1.1.1.1", "10.0.0.1"], ["::ffff:127.0.0.1"], ["fe80::1%lo"]])
def test_a_host_that_resolves_inside_is_refused(site: Site, pem: Path, addresses: list[str]) -> None:
    """With the check that is the default; one such address among several is enough."""
    with pytest.raises(RequestRefused, match="not on the public internet") as caught:
        fetcher(site, pem, addresses=lambda *_: addresses, permitted=is_public)(f"https://{HOST}/", 100)
    assert caught.value.status == 403
    assert site.connections == 0


def test_a_name_that_resolves_otherwise_a_moment_later_changes_nothing(start: Callable[..., Site], pem: Path) -> None:
    """DNS rebinding: it is resolved once, and the connection goes to the address that was checked."""
    good = start("127.0.0.2")
    inside = start("127.0.0.3", good.listening.getsockname()[1])
    answers = iter([["127.0.0.2"], ["127.0.0.3"]])
    fetch = fetcher(good, pem, addresses=lambda *_: next(answers), permitted=lambda address: address == "127.0.0.2")
    assert fetch(f"https://{HOST}/", 100) == b"image"
    assert (good.connections, inside.connections) == (1, 0)
    assert next(answers) == ["127.0.0.3"], "there was no second look"
    rebound = fetcher(good, pem, addresses=lambda *_: ["127.0.0.3"], permitted=lambda address: address == "127.0.0.2")
    with pytest.raises(RequestRefused):
        rebound(f"https://{HOST}/", 100)
    assert inside.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(site: Site, pem: Path, status: int) -> None:
    """Also not to the same host."""
    site.reply = lambda connection: connection.sendall(
        b"HTTP/1.1 %d Moved\r\nLocation: https://images.test/2\r\nContent-Length: 0\r\n\r\n" % status
    )
    with pytest.raises(RequestRefused, match="leads on") as caught:
        fetcher(site, pem)(f"https://{HOST}/", 100)
    assert caught.value.status == 403
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 101\r\n\r\n",
        OK + b"\r\n" + bytes(101),
        OK + b"Transfer-Encoding: chunked\r\n\r\n65\r\n" + bytes(101) + b"\r\n0\r\n\r\n",
    ],
)
def test_what_is_too_large_is_left(site: Site, pem: Path, answer: bytes) -> None:
    """By its declared length, or as soon as more has come."""
    site.reply = lambda connection: connection.sendall(answer)
    with pytest.raises(RequestRefused) as caught:
        fetcher(site, pem)(f"https://{HOST}/", 100)
    assert (caught.value.status, caught.value.code) == (413, "too-large")


def test_a_body_in_chunks_is_put_together(site: Site, pem: Path) -> None:
    """And one of exactly the limit is taken."""
    site.reply = lambda connection: connection.sendall(
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nima\r\n2\r\nge\r\n0\r\n\r\n"
    )
    assert fetcher(site, pem)(f"https://{HOST}/", 5) == b"image"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 Oh\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
        OK + b"Content-Length: 50\r\n\r\nshort",
        OK + b"X: " + b"x" * 100_000,
        OK + b"X: y\r\n" * 500 + b"\r\n",
    ],
)
def test_what_cannot_be_had_is_a_bad_request(site: Site, pem: Path, answer: bytes) -> None:
    """And none of the host's words are passed on."""
    site.reply = lambda connection: connection.sendall(answer)
    with pytest.raises(RequestRefused) as caught:
        fetcher(site, pem)(f"https://{HOST}/", 100)
    assert (caught.value.status, caught.value.code) == (400, "url-unreachable")


def test_a_host_that_drips_is_left_at_the_deadline(site: Site, pem: Path) -> None:
    """The time is for all reads together; each by itself is quick."""

    def drip(connection: ssl.SSLSocket) -> None:
        for byte in OK * 100:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)

    site.reply = drip
    started = time.monotonic()
    with pytest.raises(RequestRefused, match=r"within 0\.5 s"):
        fetcher(site, pem, max_seconds=0.5)(f"https://{HOST}/", 100)
    assert time.monotonic() - started < 3


def test_a_host_that_never_shakes_hands_and_a_resolver_that_hangs_are_left_too(site: Site, pem: Path) -> None:
    """Every step is under the one deadline."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fetch = UrlFetcher([HOST], max_seconds=0.3, resolve=lambda *_: ["127.0.0.1"], permitted=lambda _: True,
                           port=silent.getsockname()[1])  # fmt: skip
        started = time.monotonic()
        with pytest.raises(RequestRefused, match=r"within 0\.3 s"):
            fetch(f"https://{HOST}/", 100)
    release = threading.Event()

    def hang(host: str, port: int) -> list[str]:
        release.wait(20)
        return ["127.0.0.1"]

    with pytest.raises(RequestRefused, match="cannot be resolved"):
        fetcher(site, pem, addresses=hang, max_seconds=0.3)(f"https://{HOST}/", 100)
    release.set()
    assert time.monotonic() - started < 3
    assert site.connections == 0


def test_a_certificate_of_another_name_or_signer_is_refused(site: Site, pem: Path, tmp_path: Path) -> None:
    """The check is the system's own."""
    stranger = UrlFetcher([HOST], resolve=lambda *_: ["127.0.0.1"], permitted=lambda _: True,
                          port=site.listening.getsockname()[1])  # fmt: skip
    with pytest.raises(RequestRefused, match="certificate does not verify"):
        stranger(f"https://{HOST}/", 100)
    site.context.load_cert_chain(certificate(tmp_path, "other.test"))
    context = ssl.create_default_context(cafile=str(tmp_path / "other.test.pem"))
    named = UrlFetcher([HOST], resolve=lambda *_: ["127.0.0.1"], permitted=lambda _: True,
                       port=site.listening.getsockname()[1], context=context)  # fmt: skip
    with pytest.raises(RequestRefused, match="certificate does not verify"):
        named(f"https://{HOST}/", 100)
    assert site.requests in ([], [b""], [b"", b""]), "no request was sent"


def test_a_name_that_does_not_exist_and_a_port_where_nobody_listens() -> None:
    """Both are told without the address."""
    unknown = UrlFetcher([HOST], resolve=lambda *_: [])
    with pytest.raises(RequestRefused, match="cannot be resolved"):
        unknown(f"https://{HOST}/", 100)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    closed = UrlFetcher([HOST], resolve=lambda *_: ["127.0.0.1"], permitted=lambda _: True, port=port)
    with pytest.raises(RequestRefused, match="ConnectionRefusedError") as caught:
        closed(f"https://{HOST}/", 100)
    assert "127.0.0.1" not in str(caught.value)


def test_the_systems_resolver_gives_addresses() -> None:
    """Each once, of this machine's own name."""
    found = resolve("localhost", 443)
    assert found
    assert len(found) == len(set(found))
    assert all(ipaddress.ip_address(address).is_loopback for address in found)
