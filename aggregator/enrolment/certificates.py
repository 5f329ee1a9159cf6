"""Certificates and revocation lists (X.509, RFC 5280) on curve P-256, which firmware and all brokers support.

Client certificates are valid for clients only and the broker's for servers only (extended key usage), so a device
cannot impersonate the broker, nor the broker a client.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aggregator.enrolment.errors import EnrolmentError
from aggregator.enrolment.roles import Role

BACKDATED = timedelta(hours=1)
"""Backdating: the clocks of devices may be behind, and they refuse a certificate that is not valid yet."""

_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")

_NO_USAGE = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


@dataclass(frozen=True)
class Signer:
    """An authority's certificate and private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def until(self) -> datetime:
        """Expiry of its certificate, and so of everything it has signed."""
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True)
class Revoked:
    """One entry of a revocation list."""

    serial: int
    at: datetime


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new private key, from the system's random source."""
    return ec.generate_private_key(ec.SECP256R1())


def new_serial() -> int:
    """A new serial number, from the system's random source."""
    return x509.random_serial_number()


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key in PEM, unencrypted, because programs start unattended; its file must be readable by its owner only."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_pem(certificate: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_signer(certificate: bytes, key: bytes) -> Signer:
    """Reads an authority from its two PEM files.

    Raises:
        ValueError: they are not what they should be, or do not belong together.
    """
    private = serialization.load_pem_private_key(key, password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not on an elliptic curve")  # noqa: TRY004 — of a file, not of a programmer
    signer = Signer(x509.load_pem_x509_certificate(certificate), private)
    if signer.certificate.public_key() != private.public_key():
        raise ValueError("key and certificate do not belong together")
    return signer


def found_authority(
    key: ec.EllipticCurvePrivateKey, *, name: str, serial: int, now: datetime, until: datetime
) -> Signer:
    """A self-signed authority; certificates that it issues cannot sign others."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": True, "crl_sign": True})
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Signer(builder.sign(key, hashes.SHA256()), key)


def issue(
    signer: Signer,
    public_key: ec.EllipticCurvePublicKey,
    *,
    name: str,
    role: Role,
    serial: int,
    now: datetime,
    until: datetime,
    hosts: Sequence[str] = (),
) -> x509.Certificate:
    """A certificate for one name. `hosts` are the names and addresses of a broker.

    Raises:
        EnrolmentError: a host is neither.
    """
    serves = role == "broker"
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if serves else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(signer.certificate.subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(now - BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True}), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_issued_by(signer), critical=False)
    )
    if serves:
        names = x509.SubjectAlternativeName([_alternative_name(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signer.key, hashes.SHA256())


def revocation_list(
    signer: Signer, revoked: Iterable[Revoked], *, number: int, now: datetime, until: datetime
) -> x509.CertificateRevocationList:
    """A revocation list. A broker that uses it refuses *all* clients after `until`."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(signer.certificate.subject)
        .last_update(now - BACKDATED)
        .next_update(until)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_issued_by(signer), critical=False)
    )
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(one.serial).revocation_date(one.at).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(signer.key, hashes.SHA256())


def list_ends(pem: bytes) -> datetime | None:
    """The expiry of a revocation list.

    Raises:
        ValueError: it is none.
    """
    return x509.load_pem_x509_crl(pem).next_update_utc


def _issued_by(signer: Signer) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())


def _alternative_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not _HOST.fullmatch(host):
            raise EnrolmentError(f"host {host!r}: give a name like broker.example.org or an address, no port") from None
        return x509.DNSName(host)
