"""Why a TLS connection failed, and what to do about it.

Either this side does not accept the server's certificate (a verification error), or the server does not accept this
side's, which it reports with an alert. With TLS 1.3, such an alert arrives after the handshake, at the first read.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class CertificateProblem(NamedTuple):
    """What is wrong with a server's certificate."""

    what: str
    """The text after "the certificate of …"."""
    mend: str


_UNKNOWN_AUTHORITY = CertificateProblem(
    "is signed by an unknown authority", "give the authority's certificate with {ca_flag} FILE"
)
_WRONG_NAME = CertificateProblem(
    "is for another host", "use the name in the certificate, or add this one to it as subjectAltName"
)
# X509_V_ERR_… of OpenSSL's x509_vfy.h.
_UNTRUSTED: Mapping[int, CertificateProblem] = {
    9: CertificateProblem("is not valid yet", "look at the clocks of both machines"),
    10: CertificateProblem("has expired", "renew {server}'s certificate, or look at the clock of this machine"),
    **dict.fromkeys((2, 18, 19, 20, 21), _UNKNOWN_AUTHORITY),
    23: CertificateProblem("is revoked", "give {server} a new one"),
    26: CertificateProblem("is not one for a server", "give {server} one that was made for it"),
    **dict.fromkeys((62, 64), _WRONG_NAME),
}


def certificate_problem(
    error: ssl.SSLCertVerificationError, *, server: str = "the broker", ca_flag: str = "--tls-ca"
) -> CertificateProblem:
    """Why this side does not accept the server's certificate."""
    other = CertificateProblem(f"is not accepted: {error.verify_message}", "replace {server}'s certificate")
    what, mend = _UNTRUSTED.get(error.verify_code, other)
    return CertificateProblem(what, mend.format(server=server, ca_flag=ca_flag))


_ALERTS: Mapping[str, str] = {
    "CERTIFICATE_EXPIRED": "has expired, it says: renew {file}",
    "CERTIFICATE_REVOKED": "is revoked, it says: enrol this client again",
    "UNKNOWN_CA": "is signed by an authority that it does not know, it says: use a certificate of its authority, "
    "not {file}",
    "BAD_CERTIFICATE": "is damaged or wrongly signed, it says: replace {file}",
    "UNSUPPORTED_CERTIFICATE": "is not one for a client, it says: replace {file}",
    "CERTIFICATE_UNKNOWN": "is not acceptable, it says: replace {file}",
    "CERTIFICATE_REQUIRED": "is missing, it says: give {flag}",
    "ACCESS_DENIED": "gives no access, it says",
    "DECRYPT_ERROR": "does not fit its key, it says: replace {file}",
}
"""What a server's alert says about this client's certificate."""


_NOT_TLS = "does not speak TLS on this port; give its encrypted port, or an address without TLS"
_NO_VERSION = "and this client have no version of TLS in common"
_FAILURES: Mapping[str, str] = {
    "HANDSHAKE_FAILURE": "found no way to speak TLS with this client",
    "PROTOCOL_VERSION": _NO_VERSION,
    "UNSUPPORTED_PROTOCOL": _NO_VERSION,
    **dict.fromkeys(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"), _NOT_TLS),
}
"""Meaning of other alerts and errors; the text after the server's name."""


def tls_failure(
    error: ssl.SSLError,
    *,
    server: str = "the broker",
    ca_flag: str = "--tls-ca",
    certificate_flag: str = "--tls-certificate and --tls-key",
    certificate_file: Path | None = None,
) -> str:
    """One line for people: the cause, and what to do.

    Args:
        error: raised by the ssl module.
        server: how to call the other side.
        ca_flag: the flag for trusted certificate authorities.
        certificate_flag: the flag for this side's certificate.
        certificate_file: this side's certificate, if it has one.
    """
    asked = "" if certificate_file else f"; it may want a certificate: give {certificate_flag}"
    if isinstance(error, ssl.SSLCertVerificationError):
        cause = certificate_problem(error, server=server, ca_flag=ca_flag)
        return f"the certificate of {server} {cause.what}; {cause.mend}"
    if isinstance(error, ssl.SSLEOFError):
        return f"{server} ended the encrypted connection without a reason{asked}"
    reason = error.reason or ""
    alert = reason.partition("ALERT_")[2]
    if alert in _ALERTS:
        said = _ALERTS[alert].format(file=certificate_file or "it", flag=certificate_flag)
        return f"{server} refuses this client's certificate, which {said}"
    if alert or reason in _FAILURES:
        said = _FAILURES.get(alert or reason, f"answers {alert.replace('_', ' ').lower()} to TLS")
        return f"{server} {said}{asked if alert == 'HANDSHAKE_FAILURE' else ''}"
    return f"TLS with {server} failed: {reason.replace('_', ' ').lower() or error.strerror or error}"
