"""Certificates, names, and revocation."""

import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from aggregator.__main__ import main
from aggregator.enrolment.authority import begin
from aggregator.enrolment.errors import EnrolmentError
from aggregator.enrolment.roles import NUMBERED_MAX, ROLES, check_role_name
from tests.aggregator.enrolment.authorities import HOUR, NOW, at, certificate, line, mode, revocations
from wire_contract.limits import NAME_CHARACTERS_MAX


def test_a_device_gets_a_key_and_a_certificate_for_its_name(folder: Path) -> None:
    with at(folder) as authority:
        made = authority.enrol("watch-1", "device", out=Path("out"), days=365)
    assert [file.name for file in made.files] == ["watch-1.key", "watch-1.pem", "ca.pem"]
    assert mode(made.files[0]) == mode(folder / "ca.key") == mode(folder / "issued.json") == 0o600
    own, authority_own = certificate(made.files[1]), certificate(folder / "broker" / "ca.pem")
    assert own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "watch-1"
    assert own.not_valid_after_utc == NOW + timedelta(days=365)
    assert own.not_valid_before_utc == NOW - HOUR
    own.verify_directly_issued_by(authority_own)
    with pytest.raises(x509.ExtensionNotFound):
        own.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert not own.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert f"{own.serial_number:x}" == made.issued.serial
    ssl.create_default_context(cafile=made.files[2]).load_cert_chain(made.files[1], made.files[0])
    assert (folder / "broker" / "ca.pem").read_bytes() == made.files[2].read_bytes()
    assert not list((folder / "broker").glob("*.key")), "no key goes to the broker by itself"


def test_the_certificate_of_a_broker_holds_for_its_hosts(folder: Path) -> None:
    with at(folder) as authority:
        made = authority.enrol("broker", "broker", out=folder / "broker", days=30, hosts=("mq.example.org", "10.1.2.3"))
    own = certificate(made.files[1])
    names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["mq.example.org"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3"]
    policy = PolicyBuilder().store(Store([certificate(folder / "broker" / "ca.pem")])).time(NOW)
    policy.build_server_verifier(x509.DNSName("mq.example.org")).verify(own, [])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("other.example.org")).verify(own, [])
    for host in ("", "a b", "http://x", "x:8883", "a/b", "a..b", "über", "x" * 64, "*"):
        with pytest.raises(EnrolmentError, match="no port"), at(folder) as authority:
            authority.enrol("broker-1", "broker", out=Path("out"), days=30, hosts=(host,))
    for role, hosts in (("broker", ()), ("device", ("x",))):
        with pytest.raises(EnrolmentError, match="--host"), at(folder) as authority:
            authority.enrol("broker" if role == "broker" else "a", role, out=Path("out"), days=1, hosts=hosts)  # type: ignore[arg-type]


def test_no_certificate_outlives_its_authority(folder: Path) -> None:
    late = NOW + timedelta(days=3_600)
    with at(folder, late) as authority:
        made = authority.enrol("watch-1", "device", out=Path("out"), days=365)
        assert made.issued.expires_at == authority.signer.until == NOW + timedelta(days=3_650)
    with at(folder, NOW + timedelta(days=3_651)) as authority, pytest.raises(EnrolmentError, match="begin a new one"):
        authority.enrol("watch-2", "device", out=Path("out"), days=365)


@pytest.mark.parametrize(
    "name",
    [
        "aggregator",
        "aggregator-1",
        "aggregator-x",
        "viewer",
        "viewer-2",
        "broker",
        "Aggregator",
        "VIEWER-1",
        "evaluator",
        "evaluator.a",
    ],
)
def test_a_device_never_gets_a_name_that_has_rights_of_its_own(folder: Path, name: str) -> None:
    with at(folder) as authority:
        with pytest.raises(EnrolmentError, match="rights of its own"):
            authority.enrol(name, "device", out=Path("out"), days=1)
        with pytest.raises(EnrolmentError, match="rights of its own"):
            authority.enrol_password(name, "device", out=Path("out"))
        assert authority.register.issued == ()
    assert not Path("out").exists()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "name", ["", "a/b", "+", "#", "a b", "-a", "x" * (NAME_CHARACTERS_MAX + 1), "é", "a\n", "..", "a\0"]
)
def test_a_name_that_cannot_stand_in_a_topic_is_refused(role: str, name: str) -> None:
    with pytest.raises(EnrolmentError):
        check_role_name(name, role)  # type: ignore[arg-type]


def test_roles_have_their_names() -> None:
    for role in ("aggregator", "viewer", "evaluator", "broker"):
        for good in (role, f"{role}-1", f"{role}-{NUMBERED_MAX}"):
            assert check_role_name(good, role) == good  # type: ignore[arg-type]
        for bad in ("watch-1", f"{role}-0", f"{role}-x", f"{role}1", role.upper(), f"{role}-01"):
            with pytest.raises(EnrolmentError):
                check_role_name(bad, role)  # type: ignore[arg-type]
    for good in ("watch-1", "aggregators", "viewers.1", "w" * NAME_CHARACTERS_MAX):
        assert check_role_name(good, "device") == good


def test_no_name_is_enrolled_that_the_access_list_would_treat_as_a_device(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("enrol", "--authority", str(folder), "--role", "viewer", "--device", "viewer-4", "--password")
    assert "--access-list" in line(capsys, *arguments)
    shipped = Path(__file__).parents[3] / "broker_config" / "mosquitto.acl"
    assert "--access-list" in line(capsys, *arguments, "--access-list", str(shipped))
    assert "missing.acl" in line(capsys, *arguments, "--access-list", "missing.acl")
    cohort = ("enrol", "--authority", str(folder), "--role", "evaluator", "--device", "evaluator.ward-3")
    assert "--access-list" in line(capsys, *cohort)
    assert not Path("enrolled").exists()
    longer = Path("mosquitto.acl")
    longer.write_text(shipped.read_text() + "\nuser \nuser viewer-4\ntopic deny fedkd/v1/+/update/+/viewer-4\n")
    assert main([*arguments, "--access-list", str(longer)]) == 0
    assert Path("enrolled/viewer-4.password").exists()


def test_nothing_is_overwritten(folder: Path) -> None:
    with at(folder) as authority:
        authority.enrol("watch-1", "device", out=Path("out"), days=1)
        before = (Path("out") / "watch-1.key").read_bytes()
        with pytest.raises(EnrolmentError, match="has a certificate already"):
            authority.enrol("watch-1", "device", out=Path("elsewhere"), days=1)
        with pytest.raises(EnrolmentError, match="never overwritten"):
            authority.enrol("watch-1", "device", out=Path("out"), days=1, renew=True)
        authority.enrol("watch-1", "device", out=Path("elsewhere"), days=2, renew=True)
        assert len(authority.register.holding("watch-1", NOW)) == 2
    assert (Path("out") / "watch-1.key").read_bytes() == before
    with pytest.raises(EnrolmentError, match="lock out"):
        begin(folder, name="x", days=1, now=lambda: NOW)


def test_another_authoritys_certificates_are_not_mixed(folder: Path) -> None:
    begin(Path("other"), name="other", days=1, now=lambda: NOW)
    with at(Path("other")) as authority:
        authority.enrol("watch-1", "device", out=Path("out"), days=1)
    with at(folder) as authority, pytest.raises(EnrolmentError, match="another authority"):
        authority.enrol("watch-2", "device", out=Path("out"), days=1)
    assert not (Path("out") / "watch-2.pem").exists()


def test_one_program_at_a_time(folder: Path) -> None:
    with at(folder), pytest.raises(EnrolmentError, match="another program"):
        at(folder)


def test_the_revocation_list_follows_what_is_revoked(folder: Path) -> None:
    with at(folder) as authority:
        serials = [int(authority.enrol(name, "device", out=Path("out"), days=9).issued.serial, 16) for name in "abc"]
        numbers = [_number(folder)]
        assert authority.revoke("a")[0].name == "a"
        numbers.append(_number(folder))
        authority.revoke("c")
        numbers.append(_number(folder))
        assert authority.revoke("c") == [], "twice is once"
        with pytest.raises(EnrolmentError, match="never enrolled"):
            authority.revoke("d")
    assert {one.serial_number for one in revocations(folder)} == {serials[0], serials[2]}
    assert numbers == sorted(set(numbers))
    with at(folder, NOW + timedelta(days=1)) as authority:
        again = authority.enrol("a", "device", out=Path("again"), days=9)
    assert int(again.issued.serial, 16) not in {one.serial_number for one in revocations(folder)}
    assert {one.serial_number for one in revocations(folder)} == {serials[0], serials[2]}, "enrol keeps the others"
    revocations(folder).is_signature_valid(certificate(folder / "broker" / "ca.pem").public_key())  # type: ignore[arg-type]
    users = (folder / "broker" / "nats-users.conf").read_text()
    assert [name for name in "abc" if f'"CN={name}"' in users] == ["a", "b"]


def _number(folder: Path) -> int:
    return revocations(folder).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_a_crash_before_the_list_is_mended_by_doing_it_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with at(folder) as authority:
        authority.enrol("a", "device", out=Path("out"), days=9)
        with monkeypatch.context() as crash:
            crash.setattr(authority, "_write_list", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                authority.revoke("a")
    assert len(revocations(folder)) == 0
    with at(folder) as authority:
        authority.revoke("a")
    assert len(revocations(folder)) == 1


def test_a_list_lasts_as_long_as_its_authority_unless_told_otherwise(folder: Path) -> None:
    with at(folder) as authority:
        assert revocations(folder).next_update_utc == authority.signer.until
        authority.renew_list(days=10)
        authority.enrol("a", "device", out=Path("out"), days=3_000)
        assert revocations(folder).next_update_utc == NOW + timedelta(days=10), "enrol keeps to what was said"
        assert any("refuses everybody" in one for one in authority.warnings())
        authority.renew_list(days=None)
        assert authority.warnings() == []


def test_what_ends_soon_is_told(folder: Path) -> None:
    with at(folder) as authority:
        authority.enrol("short", "device", out=Path("out"), days=10)
        authority.enrol("long", "device", out=Path("out"), days=300)
        assert ["short" in one for one in authority.warnings()] == [True]
        authority.enrol("short", "device", out=Path("newer"), days=300, renew=True)
        assert authority.warnings() == [], "it has a successor"
    (folder / "broker" / "crl.pem").unlink()
    with at(folder, NOW + timedelta(days=3_640)) as authority:
        assert [("missing" in one, "authority ends" in one) for one in authority.warnings()] == [
            (True, False),
            (False, True),
        ]
