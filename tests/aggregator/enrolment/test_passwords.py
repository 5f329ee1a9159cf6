"""Password files of the broker."""

import base64
import hashlib
from pathlib import Path

import pytest

from aggregator.enrolment import passwords
from aggregator.enrolment.errors import EnrolmentError
from tests.aggregator.enrolment.authorities import NOW, at, mode


def test_a_password_entry_is_what_mosquitto_reads(folder: Path) -> None:
    with at(folder) as authority:
        made = authority.enrol_password("viewer", "viewer", out=Path("out"))
        authority.enrol_password("watch-1", "device", out=Path("out"))
    password = made.files[0].read_text().strip()
    assert len(password) == 24
    assert mode(made.files[0]) == mode(folder / "broker" / "passwords") == 0o600
    entries = (folder / "broker" / "passwords").read_text().splitlines()
    assert [entry.partition(":")[0] for entry in entries] == ["viewer", "watch-1"]
    name, empty, kind, iterations, salt, digest = entries[0].replace(":", "$", 1).split("$")
    assert (name, empty, kind) == ("viewer", "", "7")
    expected = hashlib.pbkdf2_hmac("sha512", password.encode(), base64.b64decode(salt), int(iterations))
    assert base64.b64decode(digest) == expected
    assert password not in (folder / "issued.json").read_text() + entries[0]


def test_a_password_is_renewed_and_revoked(folder: Path) -> None:
    entries = folder / "broker" / "passwords"
    with at(folder) as authority:
        authority.enrol("viewer", "viewer", out=Path("out"), days=9)
        authority.enrol_password("viewer", "viewer", out=Path("out"))
        first = entries.read_text()
        with pytest.raises(EnrolmentError, match="has a password already"):
            authority.enrol_password("viewer", "viewer", out=Path("newer"))
        authority.enrol_password("viewer", "viewer", out=Path("newer"), renew=True)
        assert entries.read_text() != first
        assert entries.read_text().count("viewer:") == 1
        assert [one.kind for one in authority.register.holding("viewer", NOW)] == ["certificate", "password"]
        assert len(authority.revoke("viewer")) == 2
    assert entries.read_text() == ""
    for role in ("aggregator", "broker"):
        with at(folder) as authority, pytest.raises(EnrolmentError, match="takes a certificate"):
            authority.enrol_password(role, role, out=Path("out"))  # type: ignore[arg-type]


def test_entries_of_others_are_left_alone() -> None:
    text = "a:1\nab:2\n"
    assert passwords.without_entry(text, "a") == "ab:2\n"
    assert passwords.with_entry(text, "a:3") == "ab:2\na:3\n"
