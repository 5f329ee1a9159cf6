"""An authority at a moment of the test, and what it wrote."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from aggregator.__main__ import main
from aggregator.enrolment.authority import Authority

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


HOUR = timedelta(hours=1)


def at(folder: Path, moment: datetime = NOW) -> Authority:
    return Authority(folder, now=lambda: moment)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def revocations(folder: Path) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl((folder / "broker" / "crl.pem").read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def line(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    assert main(arguments) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert said.startswith("aggregator: ")
    return said
