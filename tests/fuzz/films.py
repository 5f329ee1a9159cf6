"""`make fuzz`, or `python -m tests.fuzz.films --files 10000`: damaged mammograms of each transfer syntax. Each must
give a film or a `FilmRefused`, in bounded memory and time. The seed is printed; the same seed gives the same files.
"""

import argparse
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from device_client.data.dicom.decoding.decoder import DECODER
from device_client.data.dicom.film import FilmRefused, FilmSettings
from device_client.data.dicom.reading import read_film
from tests.device_client.data.dicom.dicom_files import SYNTAXES, breast, content, dataset

SECONDS_MAX = 20.0
"""For one file of 96 x 64 pixels; a decoder that never ends takes longer."""
_LENGTHS = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_VRS = b"OB OW SQ UN UI PN DS IS US SS UT LO FD AT ZZ".split()


@dataclass
class Outcomes:
    """What came of the files."""

    codes: Counter[str] = field(default_factory=Counter)
    """`film`, or the code of a refusal."""
    seconds_max: float = 0.0
    decoders_ended: int = 0
    """Child processes that a damaged stream has crashed, or that took too long."""


def damaged(original: bytes, chance: random.Random) -> bytes:
    """One file with one to four damages."""
    file = bytearray(original)
    if chance.random() < 0.5:
        return _stream_damaged(file, chance)
    for _ in range(chance.choice((1, 1, 2, 4))):
        pixels = max(file.rfind(b"\xe0\x7f\x10\x00"), 132)
        at = (
            chance.randrange(128, len(file))
            if chance.random() < 0.4
            else chance.randrange(132, pixels + 64) % len(file)
        )
        match chance.randrange(7):
            case 0:
                file[at] ^= 1 << chance.randrange(8)
            case 1:
                del file[at:]
            case 2:
                file[at : at + 4] = struct.pack("<I", chance.choice(_LENGTHS))
            case 3:
                file[at : at + 2] = chance.choice(_VRS)
            case 4:
                del file[at : at + chance.randrange(1, 64)]
            case 5:
                file[at:at] = chance.randbytes(chance.randrange(1, 64))
            case _:  # in the compressed stream's own header, which asks a decoder for memory
                begin = min(len(file), pixels + 28)
                file[begin + chance.randrange(80) : begin + 80] = chance.randbytes(chance.randrange(1, 8))
        if len(file) < 140:
            break
    return bytes(file)


def _stream_damaged(file: bytearray, chance: random.Random) -> bytes:
    """Only what a decoder gets, in place: all checks before it are passed."""
    size = len(file)
    begin = max(file.rfind(b"\xfe\xff\x00\xe0") + 8, 300)
    for _ in range(chance.choice((1, 2, 8))):
        at = begin + chance.randrange(size - begin if chance.random() < 0.5 else 120)
        changed = chance.choice((chance.randbytes(1), chance.randbytes(4), b"\xff\xff\xff\xff", bytes(2)))
        file[at : at + len(changed)] = changed
    return bytes(file[:size])


def run(files: int, seed: int, *, only: str | None = None) -> Outcomes:
    """Reads damaged files; whatever else than a refusal is raised goes through, after its seed was printed."""
    originals = [content(dataset(breast()), syntax) for syntax in sorted(SYNTAXES) if only in (None, syntax)]
    settings = FilmSettings(spacing_mm=0.1, crop=True)
    outcomes = Outcomes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.dcm"
        for number in range(files):
            path.write_bytes(damaged(originals[number % len(originals)], random.Random(f"{seed} {number}")))
            began, child = time.monotonic(), DECODER._child
            try:
                read_film(path, settings)
                outcomes.codes["film"] += 1
            except FilmRefused as refusal:
                outcomes.codes[refusal.code] += 1
            except BaseException:
                print(f"fuzz: file {number} of seed {seed} gives neither a film nor a refusal", file=sys.stderr)
                raise
            seconds = time.monotonic() - began
            assert seconds < SECONDS_MAX, f"file {number} of seed {seed} took {seconds:.0f} s"
            outcomes.seconds_max = max(outcomes.seconds_max, seconds)
            outcomes.decoders_ended += child is not None and (DECODER._child is None or child.poll() is not None)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.films", description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    began = time.monotonic()
    outcomes = run(arguments.files, arguments.seed)
    peak = [resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(
        f"fuzz: {arguments.files} damaged films, seed {arguments.seed}, in {time.monotonic() - began:.0f} s, slowest "
        f"{outcomes.seconds_max:.2f} s, decoders ended {outcomes.decoders_ended}, memory at most {peak[0]} MB, of a "
        f"decoder that ended {peak[1]} MB: {dict(outcomes.codes.most_common())}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
