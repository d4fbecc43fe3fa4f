"""A throw-away certificate authority, and a certificate of it for every host name that is asked for."""

from __future__ import annotations

import ssl
import threading
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Certificates"]


class Certificates:
    """An authority of its own.

    Args:
        folder: Where its certificates are written.

    Attributes:
        authority: The file with its own certificate, for clients to trust.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._lock = threading.Lock()
        self._contexts = cache(self._make_context)
        self.authority = folder / "authority.pem"
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        made = self._builder("The emulator's authority").add_extension(x509.BasicConstraints(True, 0), critical=True)
        made = made.add_extension(usage, critical=True).add_extension(self._identifier, critical=False)
        self.authority.write_bytes(self._signed(made))

    def context(self, host: str) -> ssl.SSLContext:
        """Returns what a server of a host name speaks TLS with."""
        with self._lock:
            return self._contexts(host)

    def _make_context(self, host: str) -> ssl.SSLContext:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier)
        made = (
            self._builder(host[:64])
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(issuer, critical=False)
        )
        key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = self._folder / f"{host}.pem"
        file.write_bytes(key + self._signed(made))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _builder(self, name: str) -> x509.CertificateBuilder:
        """Returns the beginning of a certificate; one key is enough for all of them."""
        moment = datetime.now(UTC)
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The emulator's authority")])
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment - timedelta(days=1))
            .not_valid_after(moment + timedelta(days=30))
        )

    def _signed(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
