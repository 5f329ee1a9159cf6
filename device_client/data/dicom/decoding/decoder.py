"""Compressed frames are decoded in a child process: decoders in C crash, or never end, on some damaged streams."""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from device_client.data.dicom.film import PIXELS_MAX, FilmRefused

PATIENCE_SECONDS = 60.0
"""For one film; the slowest of the films measured takes a few seconds."""
_BYTES_MAX = 4 * PIXELS_MAX
_LINE_MAX = 4096
_REFUSED = "no decoder can read the compressed pixels; export the film uncompressed, or as JPEG 2000 or JPEG-LS"


class Decoder:
    """One child process, begun with the first film and again after each one that has ended it."""

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._lock = threading.Lock()

    def decode(self, frame: bytes, options: dict[str, Any]) -> npt.NDArray[Any]:
        """The pixels of a frame, as stored.

        Args:
            frame: compressed.
            options: of pydicom's `Decoder.as_array`.

        Raises:
            FilmRefused: no decoder reads it, or it has crashed or outlasted one.
        """
        with self._lock:
            try:
                return self._answer(self._running(), frame, options)
            except (OSError, ValueError, KeyError, TypeError, EOFError):
                self._end()
        raise FilmRefused("cannot_decode", _REFUSED)

    def close(self) -> None:
        """Ends the child."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._owner != os.getpid():  # after a fork the child belongs to the parent
            self._child, self._owner = None, os.getpid()
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = subprocess.Popen(
                [sys.executable, "-m", "device_client.data.dicom.decoding.decoder_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        return self._child

    def _answer(self, child: subprocess.Popen[bytes], frame: bytes, options: dict[str, Any]) -> npt.NDArray[Any]:
        assert child.stdin is not None
        assert child.stdout is not None
        deadline = time.monotonic() + self._patience_seconds
        message = memoryview(json.dumps({**options, "bytes": len(frame)}).encode() + b"\n" + frame)
        while message:
            message = message[child.stdin.write(message) or 0 :]
        line = bytearray()
        while not line.endswith(b"\n"):
            if len(line) > _LINE_MAX:
                raise ValueError
            line += _some(child.stdout, 1, deadline)
        answer = json.loads(line)
        if answer.get("failed"):
            raise FilmRefused("cannot_decode", _REFUSED)
        count = int(answer["bytes"])
        if count > _BYTES_MAX:
            raise ValueError
        pixels = bytearray(count)
        at = 0
        while at < count:
            some = _some(child.stdout, min(count - at, 2**20), deadline)
            pixels[at : at + len(some)] = some
            at += len(some)
        return np.frombuffer(pixels, dtype=answer["dtype"]).reshape(answer["shape"])

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def _some(pipe: IO[bytes], count: int, deadline: float) -> bytes:
    ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
    some = os.read(pipe.fileno(), count) if ready else b""
    if not some:
        raise EOFError
    return some


DECODER = Decoder()
atexit.register(DECODER.close)
