"""Keyed hashes of rows, by which two sites find out how many of their rows are the same, without showing any.

A file is one JSON object. Each list holds the first 6 bytes, in hex, of HMAC-SHA-256(key, kind + what is compared), in
sorted order and without repetition, so it tells neither the order of rows nor how often one occurs:

    format     "asyncfedkd fingerprints"
    version    1
    task       name of the task
    side       "device", "teacher" or "held-out"
    key        the hash of nothing, by which another key is noticed
    rows       number of rows
    images     pixel hashes (`leakage.pixel_hash`), the same for the 8 rotations and mirrors
    tensors    exact hashes of other inputs
    persons    names, only where the operator asked for it
    sources    the same

6 bytes suffice: of a million rows against a million others, 0.004 agree by chance.
"""

import hmac
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from device_client.data.faults import DataError, read_errors
from device_client.data.leakage import Side

FORMAT, VERSION = "asyncfedkd fingerprints", 1
KEY_BYTES_MIN = 16
FILE_BYTES_MAX = 1 << 30
_BYTES = 6
_HASH = re.compile(r"[0-9a-f]{12}")
Kind = Literal["images", "tensors", "persons", "sources"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SideName = Literal["device", "teacher", "held-out"]
SIDES: tuple[SideName, ...] = get_args(SideName)


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """The keyed hashes of some rows."""

    task: str
    side: SideName
    key_hash: str
    """Of the key that all of them were made with."""
    rows: int
    hashes: Mapping[Kind, Mapping[str, int]]
    """Rows of each hash; from a file, 1 each, because it does not say."""


def read_key(path: Path) -> bytes:
    """The key that all sites share.

    Raises:
        DataError: there is none, or it is too short to be one.
    """
    with read_errors(path):
        key = path.read_bytes().strip()
    if len(key) < KEY_BYTES_MIN:
        raise DataError(
            f"{path}: a key needs at least {KEY_BYTES_MIN} bytes; make one (openssl rand -hex 32 > {path.name}), and "
            "hand the same file to all sites"
        )
    return key


def fingerprints(
    side: Side, tensors: Counter[bytes], *, task: str, name: SideName, key: bytes, with_names: bool
) -> Fingerprints:
    """The keyed hashes of one side.

    Args:
        side: its rows.
        tensors: exact hashes of its inputs that are no images.
        task: its name.
        name: of the side.
        key: of all sites.
        with_names: persons and sources as well; who has the key can try names that he guesses.
    """
    hashes: dict[Kind, Mapping[str, int]] = {
        "images": {_keyed(key, "images", one): count for one, count in side.images.items()},
        "tensors": {_keyed(key, "tensors", one): count for one, count in tensors.items()},
    }
    if with_names:
        hashes["persons"] = {_keyed(key, "persons", one.encode()): count for one, count in side.persons.items()}
        hashes["sources"] = {_keyed(key, "sources", one.encode()): count for one, count in side.sources.items()}
    return Fingerprints(task=task, side=name, key_hash=_keyed(key, "key", b""), rows=side.rows, hashes=hashes)


def _keyed(key: bytes, kind: str, content: bytes) -> str:
    return hmac.digest(key, kind.encode() + b"\0" + content, "sha256")[:_BYTES].hex()


def encoded(own: Fingerprints) -> bytes:
    """The content of a file."""
    lists = {kind: sorted(known) for kind, known in own.hashes.items()}
    head = {"format": FORMAT, "version": VERSION, "task": own.task, "side": own.side, "key": own.key_hash}
    return json.dumps({**head, "rows": own.rows, **lists}).encode() + b"\n"


def read_fingerprints(path: Path) -> Fingerprints:
    """The file of another site.

    Raises:
        DataError: it is none, or of a newer version.
    """
    with read_errors(path):
        if path.stat().st_size > FILE_BYTES_MAX:
            raise DataError(f"{path}: more than {FILE_BYTES_MAX / 2**30:g} GiB; this is no file of fingerprints")
        content = path.read_bytes()
    try:
        found: Any = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise DataError(f"{path} is no file of fingerprints; make it: asyncfedkd device fingerprints --out FILE")
    if found.get("version") != VERSION:
        raise DataError(f"{path}: version {found.get('version')!r} of this format is not known; update this program")
    hashes: dict[Kind, Mapping[str, int]] = {}
    for kind in KINDS:
        listed = found.get(kind, [])
        if not isinstance(listed, list) or not all(isinstance(one, str) and _HASH.fullmatch(one) for one in listed):
            raise DataError(f"{path}: {kind} is no list of hashes; the file is damaged")
        if kind in found:
            hashes[kind] = dict.fromkeys(listed, 1)
    match found:
        case {"task": str(task), "key": str(key_hash), "rows": int(rows), "side": str(side)} if side in SIDES:
            name: SideName = side
            return Fingerprints(task=task, side=name, key_hash=key_hash, rows=rows, hashes=hashes)
    raise DataError(f"{path}: task, side, key or rows is missing; the file is damaged")


def in_common(own: Fingerprints, other: Fingerprints) -> Mapping[Kind, tuple[int, int]]:
    """By kind, how many of one's own different hashes the other has too, and in how many of one's own rows.

    Raises:
        DataError: the two were made with different keys.
    """
    if own.key_hash != other.key_hash:
        raise DataError("it was made with another key, so nothing can be compared; all sites need the same key file")
    found = {}
    for kind in KINDS:
        if kind in own.hashes and kind in other.hashes:
            both = [one for one in own.hashes[kind] if one in other.hashes[kind]]
            found[kind] = (len(both), sum(own.hashes[kind][one] for one in both))
    return found
