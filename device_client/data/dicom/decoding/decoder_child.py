"""Decodes compressed films in a process of its own: `python -m device_client.data.dicom.decoding.decoder_child`.

Standard input: a line of JSON (`bytes`: length of the frame, and the options of pydicom's decoder), then the frame.
Standard output: a line of JSON (`dtype`, `shape`, `bytes`; or `failed`), then the pixels. Ends with its input.
"""

import contextlib
import json
import resource
import sys
import warnings
from typing import IO

MEMORY_BYTES = 2 * 2**30
"""In addition to what the libraries take: a damaged stream can ask for any amount."""


def main() -> int:
    """Serves until its input ends."""
    warnings.simplefilter("ignore")
    from pydicom.encaps import encapsulate  # noqa: PLC0415 — only this process needs the decoders
    from pydicom.pixels import get_decoder  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while line := source.readline():
        request = json.loads(line)
        frame = source.read(request.pop("bytes"))
        try:
            with contextlib.redirect_stdout(sys.stderr):
                decoder = get_decoder(UID(request.pop("transfer_syntax_uid")))
                pixels, _ = decoder.as_array(encapsulate([frame]), raw=True, **request)
        except Exception:  # noqa: BLE001 — whatever a decoder raises about a damaged stream
            _answer(sink, {"failed": True}, b"")
        else:
            answer = {"dtype": pixels.dtype.str, "shape": pixels.shape, "bytes": pixels.nbytes}
            _answer(sink, answer, pixels.tobytes())
    return 0


def _answer(sink: IO[bytes], line: dict[str, object], pixels: bytes) -> None:
    sink.write(json.dumps(line).encode() + b"\n")
    sink.write(pixels)
    sink.flush()


if __name__ == "__main__":
    sys.exit(main())
