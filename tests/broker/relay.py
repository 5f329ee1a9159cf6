"""A TCP relay between a client and a broker, so that a test can cut the line between them, or have silence cut it."""

import contextlib
import socket
import threading


class Relay:
    """Listens on `port`. To both ends a cut looks like a lost connection, without a goodbye."""

    def __init__(self, target_port: int, *, idle_seconds_max: float | None = None) -> None:
        """`idle_seconds_max`: a line over which nothing went upward for so long is cut, as by a proxy."""
        self._idle_seconds_max = idle_seconds_max
        self._target = ("127.0.0.1", target_port)
        self._lock = threading.Lock()
        self._closed = False
        self._lines: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, timeout=60)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            near.settimeout(self._idle_seconds_max)
            with self._lock:
                if self._closed:
                    near.close()
                    far.close()
                    return
                self._lines.append((near, far))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(source, sink), daemon=True).start()

    def cut(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        for ends in lines:
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
