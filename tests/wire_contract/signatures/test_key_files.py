"""Keys on disk: written once, readable by their owner, and whatever is wrong with one is a line that names the file."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.wire_contract.keys import key
from wire_contract.signatures.key_files import (
    KeyFolder,
    read_all_public_keys,
    read_public_keys,
    read_signing_key,
    read_signing_keys,
    write_signing_key,
)
from wire_contract.signatures.signing import KeyUnusable


def test_both_halves_come_back(tmp_path: Path) -> None:
    made = write_signing_key(tmp_path / "model.pem")
    assert (tmp_path / "model.pem").stat().st_mode & 0o777 == 0o600
    assert read_signing_key(tmp_path / "model.pem").public == made.public
    assert read_public_keys(tmp_path / "model.pem.pub") == (made.public,)
    assert b"PRIVATE" not in (tmp_path / "model.pem.pub").read_bytes()
    assert made.public != write_signing_key(tmp_path / "other.pem").public


def test_a_key_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    write_signing_key(tmp_path / "model.pem")
    before = (tmp_path / "model.pem").read_bytes()
    with pytest.raises(KeyUnusable, match="is there already"):
        write_signing_key(tmp_path / "model.pem")
    (tmp_path / "model.pem.pub").unlink()
    with pytest.raises(KeyUnusable, match="is there already"):
        write_signing_key(tmp_path / "model.pem")
    assert (tmp_path / "model.pem").read_bytes() == before


def test_a_file_may_hold_several_public_keys_or_raw_bytes(tmp_path: Path) -> None:
    old, new = (write_signing_key(tmp_path / name) for name in ("old", "new"))
    both = tmp_path / "both.pub"
    both.write_bytes((tmp_path / "old.pub").read_bytes() + b"\n# the new one\n" + (tmp_path / "new.pub").read_bytes())
    assert read_public_keys(both) == (old.public, new.public)
    raw = tmp_path / "raw.pub"
    raw.write_bytes(old.public.raw)
    assert read_public_keys(raw) == (old.public,)
    assert read_all_public_keys([raw, both]) == (old.public, new.public), "each once"
    assert len(read_signing_keys([tmp_path / "old", tmp_path / "old"])) == 1


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    write_signing_key(tmp_path / "one")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "empty").chmod(0o600)
    (tmp_path / "broken.pub").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    for path, said in (
        ("missing", "No such file"),
        ("empty", "not a private Ed25519 key"),
        ("one.pub", "holds a public key, and signing needs the private one"),
    ):
        with pytest.raises(KeyUnusable, match=said) as caught:
            read_signing_key(tmp_path / path)
        assert path in str(caught.value)
        assert "\n" not in str(caught.value)
    for path, said in (
        ("missing", "No such file"),
        ("one", "holds a private key, which must stay where it signs"),
        ("empty", "no public Ed25519 key"),
        ("broken.pub", "PEM blocks"),
    ):
        with pytest.raises(KeyUnusable, match=said):
            read_public_keys(tmp_path / path)
    (tmp_path / "one").chmod(0o640)
    with pytest.raises(KeyUnusable, match="chmod 600"):
        read_signing_key(tmp_path / "one")


def test_more_keys_than_a_message_may_have_signatures(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(5)]
    for path in paths:
        write_signing_key(path)
    with pytest.raises(KeyUnusable, match="5 signing keys are given; a message has 4"):
        read_signing_keys(paths)


def test_a_folder_of_device_keys_is_looked_at_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = KeyFolder(tmp_path)
    assert folder.keys_of("watch-1") == ()
    file = tmp_path / "watch-1.pub"
    file.write_bytes(key(1).public.raw)
    assert folder.keys_of("watch-1") == folder.keys_of("watch-1") == (key(1).public,)
    other = tmp_path / "other"
    other.write_bytes(key(2).public.raw)
    other.replace(file)
    assert folder.keys_of("watch-1") == (key(2).public,)
    file.write_bytes(b"nonsense")
    assert folder.keys_of("watch-1") == folder.keys_of("watch-1") == ()
    assert caplog.text.count("watch-1.pub") == 1, "told once"
    with pytest.raises(KeyUnusable, match=r"watch-1\.pub"):
        folder.check()
    file.unlink()
    assert folder.keys_of("watch-1") == ()
    assert folder.check() == {}
    with pytest.raises(KeyUnusable, match="no such folder"):
        KeyFolder(tmp_path / "nowhere").check()


@pytest.mark.parametrize(
    "module", ["wire_contract.signatures.key_files", "aggregator.service", "device_client.settings"]
)
def test_who_signs_nothing_does_not_wait_for_the_library(module: str) -> None:
    code = f"import sys, {module}; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
