"""Files that are renewed while a program runs: read again when they changed, kept when they cannot be used."""

import os
from pathlib import Path

import pytest

from aggregator.enrolment.authority import Authority, begin
from tests.broker.locked import now
from wire_contract.errors import FileUnusable, LinkError
from wire_contract.files.watched_files import WatchedFiles, first_line
from wire_contract.link.credentials import Credentials
from wire_contract.link.mqtt_settings import MqttSettings, Tls


@pytest.fixture
def enrolled(tmp_path: Path) -> Path:
    """Folders `old` and `new` with a certificate each of the same name."""
    begin(tmp_path / "authority", name="test", days=10, now=now)
    with Authority(tmp_path / "authority", now=now) as authority:
        authority.enrol("watch-1", "device", out=tmp_path / "old", days=1)
        authority.enrol("watch-1", "device", out=tmp_path / "new", days=2, renew=True)
    return tmp_path


def settings(folder: Path, **more: object) -> MqttSettings:
    tls = Tls(ca_file=folder / "ca.pem", certificate_file=folder / "watch-1.pem", key_file=folder / "watch-1.key")
    return MqttSettings(**{"host": "broker", "client_id": "d", "tls": tls, **more})  # type: ignore[arg-type]


def test_what_has_not_changed_is_not_read_again(enrolled: Path) -> None:
    credentials = Credentials(settings(enrolled / "old"))
    context = credentials.tls
    os.utime(enrolled / "old" / "watch-1.pem")
    assert credentials.touched()
    assert not credentials.renew()
    assert not credentials.touched()
    assert credentials.tls is context


def test_a_certificate_without_its_key_yet_is_told_once_and_the_old_pair_stays(
    enrolled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    credentials = Credentials(settings(enrolled / "old"))
    context = credentials.tls
    (enrolled / "new" / "watch-1.pem").replace(enrolled / "old" / "watch-1.pem")
    assert not credentials.renew()
    credentials.doubt()
    assert not credentials.renew()
    assert credentials.tls is context
    assert caplog.text.count("the previous credentials stay in use") == 1
    (enrolled / "new" / "watch-1.key").replace(enrolled / "old" / "watch-1.key")
    assert credentials.touched()
    assert credentials.renew()
    assert credentials.tls is not context


def test_after_a_failure_of_tls_the_authorities_of_the_system_are_read_again() -> None:
    credentials = Credentials(MqttSettings(host="broker", client_id="d", tls=Tls()))
    context = credentials.tls
    assert not credentials.renew()
    assert credentials.tls is context
    credentials.doubt()
    assert not credentials.renew()
    assert credentials.tls is not context


def test_a_password_file_wins_and_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("one\n")
    credentials = Credentials(
        MqttSettings(host="broker", client_id="d", username="u", password="other", password_file=file)
    )
    assert credentials.password == "one"
    file.unlink()
    assert credentials.touched()
    assert not credentials.renew()
    assert credentials.password == "one"
    file.write_text("two\r\nand a comment\n")
    assert credentials.renew()
    assert credentials.password == "two"


def test_the_first_reading_must_succeed(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"password file .*gone: No such file"):
        Credentials(MqttSettings(host="broker", client_id="d", username="u", password_file=tmp_path / "gone"))


def test_a_file_that_is_rewritten_within_the_same_moment_has_changed(tmp_path: Path) -> None:
    """Same time, same size, same inode: only the contents tell."""
    file = tmp_path / "token"
    file.write_text("one\n")
    found = file.stat()
    files = WatchedFiles([file, tmp_path / "missing"])
    file.write_text("two\n")
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert not files.touched()
    assert files.changed()
    assert not files.changed()
    (tmp_path / "missing").write_text("")
    assert files.touched()
    assert files.changed()


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "its first line is empty"), (b"\nx", "is empty"), (b"\xff\xfe", "not a text file")]
)
def test_a_first_line_that_is_none(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "f"
    file.write_bytes(content)
    with pytest.raises(FileUnusable, match=f"token file .*: {said}|token file .*{said}"):
        first_line(file, "token file")
