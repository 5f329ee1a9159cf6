"""Enrolment: what is issued, what is refused in one line, and that nothing is overwritten, forgotten or let out."""

import base64
import hashlib
import json
import os
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from aggregator.__main__ import main
from aggregator.enrolment import passwords
from aggregator.enrolment.authority import Authority, begin
from aggregator.enrolment.errors import EnrolmentError
from aggregator.enrolment.roles import NUMBERED_MAX, ROLES, check_role_name
from wire_contract.limits import NAME_CHARACTERS_MAX

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    begin(tmp_path / "ca", name="test", days=3_650, now=lambda: NOW)
    return tmp_path / "ca"


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


# -- certificates


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


# -- names


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
    shipped = Path(__file__).parents[2] / "broker_config" / "mosquitto.acl"
    assert "--access-list" in line(capsys, *arguments, "--access-list", str(shipped))
    assert "missing.acl" in line(capsys, *arguments, "--access-list", "missing.acl")
    cohort = ("enrol", "--authority", str(folder), "--role", "evaluator", "--device", "evaluator.ward-3")
    assert "--access-list" in line(capsys, *cohort)
    assert not Path("enrolled").exists()
    longer = Path("mosquitto.acl")
    longer.write_text(shipped.read_text() + "\nuser \nuser viewer-4\ntopic deny fedkd/v1/+/update/+/viewer-4\n")
    assert main([*arguments, "--access-list", str(longer)]) == 0
    assert Path("enrolled/viewer-4.password").exists()


# -- what is there already


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


# -- revocation


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


# -- passwords


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


# -- the commands


def test_the_commands_from_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-authority"]) == 0
    assert main(["enrol", "--role", "broker", "--device", "broker", "--host", "localhost", "--host", "::1"]) == 0
    assert (Path("authority") / "broker" / "broker.pem").is_file()
    assert main(["enrol", "--device", "watch-1", "--out", "for-watch-1"]) == 0
    assert main(["enrol", "--device", "viewer", "--role", "viewer", "--password"]) == 0
    assert main(["revoke", "--device", "watch-1"]) == 0
    assert main(["renew-crl", "--days", "90"]) == 0
    said = capsys.readouterr()
    assert "--tls-certificate for-watch-1/watch-1.pem --tls-key for-watch-1/watch-1.key" in said.out
    assert "kill -HUP" in said.out
    assert said.err == ""
    secrets = [(Path("enrolled") / "viewer.password").read_text().strip()]
    secrets += [
        path.read_text().splitlines()[1] for path in (Path("authority/ca.key"), Path("for-watch-1/watch-1.key"))
    ]
    assert not any(secret in said.out for secret in secrets)
    assert main(["enrolled"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [row.split()[:4] for row in shown] == [
        ["broker", "broker", "certificate", "valid"],
        ["watch-1", "device", "certificate", "revoked"],
        ["viewer", "viewer", "password", "valid"],
    ]
    assert main(["enrolled", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["broker", "watch-1", "viewer"]


def test_a_password_in_the_environment_is_no_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for secret in ("hunter2", "true"):
        for name in ("PASSWORD", "FEDKD_PASSWORD"):
            monkeypatch.setenv(name, secret)
    monkeypatch.setenv("FEDKD_DEVICE", "watch-1")
    assert main(["new-authority"]) == 0
    assert main(["enrol"]) == 0
    assert (Path("enrolled") / "watch-1.pem").is_file()
    assert "hunter2" not in "".join(capsys.readouterr())


def test_a_list_near_its_end_is_warned_of_at_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-authority"]) == 0
    assert main(["renew-crl", "--days", "20"]) == 0
    assert main(["enrolled"]) == 0
    assert capsys.readouterr().err.count("the broker refuses everybody then: renew-crl") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["enrol", "--device", "a"], "make one with: asyncfedkd aggregator new-authority"),
        (["revoke", "--device", "a"], "there is none"),
        (["enrolled", "--authority", "missing"], "authority missing: there is none"),
        (["renew-crl"], "there is none"),
        (["enrol"], "--device is missing (or set FEDKD_DEVICE)"),
        (["enrol", "--device", "a", "--role", "king"], "--role"),
        (["enrol", "--device", "a", "--days", "0"], "--days"),
        (["new-authority", "--days", "x"], "--days"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in line(capsys, *arguments)


def test_damaged_files_are_one_line(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    good = {name: (folder / name).read_bytes() for name in ("issued.json", "ca.key", "broker/ca.pem")}
    begin(Path("other"), name="other", days=1, now=lambda: NOW)
    for name, data in (
        ("issued.json", b"{"),
        ("issued.json", b'{"issued": [{"kind": "x"}]}'),
        ("ca.key", b"nonsense"),
        ("ca.key", (Path("other") / "ca.key").read_bytes()),
        ("broker/ca.pem", b""),
    ):
        (folder / name).write_bytes(data)
        assert name.rpartition("/")[2] in line(capsys, "enrolled", "--authority", str(folder))
        (folder / name).write_bytes(good[name])
    assert main(["enrolled", "--authority", str(folder)]) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("closed").mkdir(mode=0o500)
    assert "Permission denied" in line(capsys, "new-authority", "--authority", "closed/ca")


def test_a_file_in_the_way_is_one_line(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    Path("file").write_text("")
    assert "file" in line(capsys, "new-authority", "--authority", "file/ca")
    assert "file" in line(capsys, "enrol", "--device", "a", "--authority", str(folder), "--out", "file")
    with at(folder) as authority:
        assert authority.register.issued == (), "refused before anything was issued"
