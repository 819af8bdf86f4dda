"""A certificate authority for one test: certificates for loopback, in files as an operator has them."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_NAMES = [
    x509.DNSName("localhost"),
    x509.DNSName("control.example"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
]


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    cert: Path
    key: Path

    def replace_by(self, other: "Pair") -> None:
        """Put another pair's content in the place of this one's, one file after the other."""
        for mine, new in ((self.key, other.key), (self.cert, other.cert)):
            temporary = mine.with_suffix(".new")
            temporary.write_bytes(new.read_bytes())
            temporary.replace(mine)


class Authority:
    """Signs certificates below one root."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name, self._numbers = folder, name, count(1)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        root = self._signed(self._subject, self._key, timedelta(days=1), authority=True)
        self.root = folder / f"{name}-ca.pem"
        self.root.write_bytes(root.public_bytes(serialization.Encoding.PEM))

    def issue(self, *, lifetime: timedelta = timedelta(days=1)) -> Pair:
        """Return a certificate for loopback that ends `lifetime` from now; in the past, for one below zero."""
        stem = f"{self._name}-{next(self._numbers)}"
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem)])
        pair = Pair(self._folder / f"{stem}.pem", self._folder / f"{stem}-key.pem")
        certificate = self._signed(subject, key, lifetime, authority=False)
        pair.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, lifetime: timedelta, *, authority: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.SubjectAlternativeName(_NAMES), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return builder.sign(self._key, hashes.SHA256())
