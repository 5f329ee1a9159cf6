"""Key files: a private key as PEM (PKCS #8, mode 0600), and beside it NAME.pub, the public key as PEM.

A file of public keys contains one or more PEM blocks (several during a key rotation), or the 32 raw bytes of one key.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wire_contract.files.atomic_write import write_new_file
from wire_contract.files.permissions import PRIVATE, PUBLIC
from wire_contract.limits import SIGNATURES_MAX
from wire_contract.signatures.signing import PUBLIC_KEY_BYTES, KeyUnusable, PublicKey, SigningKey

log = logging.getLogger(__name__)

PUBLIC_SUFFIX = ".pub"
_FILE_BYTES_MAX = 1 << 16
"""More is not read. Chosen: room for hundreds of public keys, as the path may be that of any file."""
_BLOCK = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_PRIVATE = b"PRIVATE KEY-----"


def write_signing_key(path: Path) -> SigningKey:
    """Generates a key pair: the private key in `path`, the public one in `path`.pub.

    Raises:
        KeyUnusable: one of the files exists already, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 — slow, and needed only for signing
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    public_path = path.with_name(path.name + PUBLIC_SUFFIX)
    if public_path.exists():
        raise KeyUnusable(f"key file {public_path} is there already; give another --out")
    _write_new(path, pem, mode=PRIVATE)
    _write_new(public_path, public, mode=PUBLIC)
    return SigningKey.of(private)


def read_signing_key(path: Path) -> SigningKey:
    """Reads a private key.

    Raises:
        KeyUnusable: it cannot be read, other users may read it, or it is no Ed25519 private key in PEM.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 — slow, and needed only for signing
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    content = _read(path)
    if _BLOCK.search(content) and _PRIVATE not in content:
        raise KeyUnusable(
            f"key file {path}: holds a public key, and signing needs the private one: give the file without "
            f"{PUBLIC_SUFFIX}"
        )
    if path.stat().st_mode & 0o077:
        raise KeyUnusable(f"key file {path}: others may read this private key; say: chmod 600 {path}")
    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyUnusable(f"key file {path}: not a private Ed25519 key in PEM without password; make one: signing-key")
    return SigningKey.of(private)


def read_signing_keys(paths: Iterable[Path]) -> tuple[SigningKey, ...]:
    """Reads private keys; each is returned once.

    Raises:
        KeyUnusable: as `read_signing_key`, or there are more than SIGNATURES_MAX.
    """
    keys = {key.public.key_id: key for key in map(read_signing_key, paths)}
    if len(keys) > SIGNATURES_MAX:
        raise KeyUnusable(f"{len(keys)} signing keys are given; a message has {SIGNATURES_MAX} signatures at most")
    return tuple(keys.values())


def read_public_keys(path: Path) -> tuple[PublicKey, ...]:
    """Reads the public keys in a file.

    Raises:
        KeyUnusable: it cannot be read, or contains none.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 — slow, and needed only for verifying
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    content = _read(path)
    if _PRIVATE in content:
        raise KeyUnusable(
            f"key file {path}: holds a private key, which must stay where it signs: give its {PUBLIC_SUFFIX} file, and "
            "delete the private one here if it was copied"
        )
    if len(content) == PUBLIC_KEY_BYTES:
        return (PublicKey(content),)
    found = []
    for block in _BLOCK.findall(content):
        try:
            key = load_pem_public_key(block + b"\n")
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise KeyUnusable(f"key file {path}: one of its PEM blocks is not a public Ed25519 key")
        found.append(PublicKey(key.public_bytes_raw()))
    if not found:
        raise KeyUnusable(f"key file {path}: no public Ed25519 key (PEM, or 32 raw bytes); give the .pub file")
    return tuple(found)


def read_all_public_keys(paths: Iterable[Path]) -> tuple[PublicKey, ...]:
    """Reads the public keys in all these files; each is returned once.

    Raises:
        KeyUnusable: as `read_public_keys`.
    """
    return tuple({key.key_id: key for path in paths for key in read_public_keys(path)}.values())


@dataclass
class KeyFolder:
    """A folder with NAME.pub for each device NAME. Files that are added, changed or removed take effect at once."""

    path: Path
    _cached: dict[str, tuple[tuple[int, int, int], tuple[PublicKey, ...]]] = field(default_factory=dict)

    def check(self) -> Mapping[str, tuple[PublicKey, ...]]:
        """Reads all keys, by device.

        Raises:
            KeyUnusable: there is no such folder, or one of its files is no key.
        """
        try:
            files = sorted(self.path.glob("*" + PUBLIC_SUFFIX)) if self.path.is_dir() else None
        except OSError as error:
            raise KeyUnusable(f"key folder {self.path}: {error.strerror}") from None
        if files is None:
            raise KeyUnusable(f"key folder {self.path}: there is no such folder; make it, with a NAME.pub a device")
        return {file.name.removesuffix(PUBLIC_SUFFIX): read_public_keys(file) for file in files}

    def keys_of(self, device: str) -> tuple[PublicKey, ...]:
        """The keys of a device, whose name is a valid level of a topic; none if it has no file, or an invalid one."""
        file = self.path / f"{device}{PUBLIC_SUFFIX}"
        try:
            found = file.stat()
        except OSError:
            self._cached.pop(device, None)
            return ()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        cached = self._cached.get(device)
        if cached is None or cached[0] != stamp:
            try:
                keys = read_public_keys(file)
            except KeyUnusable as error:  # for the operator; the receipt only says that the key is unknown
                log.warning("%s; its updates are refused", error)
                keys = ()
            cached = self._cached[device] = (stamp, keys)
        return cached[1]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX)
    except OSError as error:
        raise KeyUnusable(f"key file {path}: {error.strerror}") from None


def _write_new(path: Path, content: bytes, *, mode: int) -> None:
    """Never overwrites a key: devices may trust only that one."""
    try:
        write_new_file(path, content, mode=mode)
    except FileExistsError:
        raise KeyUnusable(f"key file {path} is there already; give another --out") from None
    except OSError as error:
        raise KeyUnusable(f"key file {path}: {error.strerror}") from None
