"""What the image of InfluxDB 2 is to compose.yaml, with InfluxDB 1.6 behind it: its variables, port, tokens and paths.

It checks tokens as InfluxDB 2 does: the administrator's creates tokens, each of those either writes or reads. What it
does not imitate: the image's own first start, which answers on another port for a while, organisations, retention.
"""

import json
import os
import secrets
import signal
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from influxd import TOKEN, InfluxDB, Shim

FOLDER = Path("/var/lib/influxdb2")
PORT = 8086
BEHIND = (8087, 8088)
"""InfluxDB's own two ports."""
BUCKET_ID = "0b0c0d0e0f000000"
UNAUTHORIZED = (401, b"401 Unauthorized: unauthorized access")


class StandIn(Shim):
    """Answers on every address of the container."""

    host = "0.0.0.0"

    def __init__(self, *, behind: int, bucket: str, admin_token: str) -> None:
        super().__init__(PORT, behind=behind)
        self._bucket = bucket
        self._admin_token = admin_token
        self._tokens = FOLDER / "tokens.json"
        self._mapped = FOLDER / "mapped"

    def _answer(self, path: str, authorization: str, body: bytes) -> tuple[int, bytes]:
        token = authorization.removeprefix("Token ")
        match urlsplit(path).path:
            case "/influx":
                return self._command(json.loads(body), token)
            case "/query":
                if self._right(token) != "read" or not self._mapped.exists():
                    return UNAUTHORIZED
                asked = f"http://127.0.0.1:{self.behind}/query?{body.decode()}"
                with urllib.request.urlopen(asked, timeout=30) as answer:
                    return answer.status, answer.read()
            case _:
                return super()._answer(path, f"Token {TOKEN if self._right(token) == 'write' else ''}", body)

    def _right(self, token: str) -> str | None:
        """read, write, or None for a token that was not made here."""
        made: dict[str, str] = json.loads(self._tokens.read_text()) if self._tokens.exists() else {}
        return made.get(token)

    def _command(self, words: list[str], token: str) -> tuple[int, bytes]:
        if token != self._admin_token and words != ["ping"]:
            return UNAUTHORIZED
        match words:
            case ["ping"]:
                said = "OK\n"
            case ["bucket", "list", "--name", self._bucket, "--hide-headers"]:
                said = f"{BUCKET_ID}\t{self._bucket}\t2160h0m0s\n"
            case ["v1", "dbrp", "list", "--bucket-id", bucket]:
                said = f"m1\t{self._bucket}\t{bucket}\n" if self._mapped.exists() else ""
            case ["v1", "dbrp", "create", "--bucket-id", _, "--db", self._bucket, *_]:
                self._mapped.touch()
                said = ""
            case ["auth", "create", ("--read-bucket" | "--write-bucket") as right, *_]:
                made = self._new_token(right.removeprefix("--").removesuffix("-bucket"))
                said = f'{{\n\t"id": "a1",\n\t"token": "{made}",\n\t"status": "active"\n}}\n'
            case _:
                return 400, f"the stand-in does not know {words}".encode()
        return 200, said.encode()

    def _new_token(self, right: str) -> str:
        made = secrets.token_urlsafe(32)
        known = json.loads(self._tokens.read_text()) if self._tokens.exists() else {}
        new = self._tokens.with_suffix(".new")
        new.write_text(json.dumps({**known, made: right}))
        new.replace(self._tokens)
        return made


def main() -> int:
    os.umask(0o077)
    server = InfluxDB(FOLDER, program="influxd", ports=(*BEHIND, PORT))
    server.shim = StandIn(
        behind=BEHIND[0],
        bucket=os.environ["DOCKER_INFLUXDB_INIT_BUCKET"],
        admin_token=Path(os.environ["DOCKER_INFLUXDB_INIT_ADMIN_TOKEN_FILE"]).read_text().strip(),
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server.start()
        return server.wait()
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
