"""The doctor and certificates: a broker as in production, and what can be wrong with a certificate."""

import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from operations.doctor.finding import exit_code
from operations.doctor.reachability import Reached, Unreached, reach
from tests.broker.conftest import scripted_broker  # noqa: F401 — a fixture
from tests.broker.locked import Bench as Enrolled
from tests.broker.locked import LockedBroker, bench, locked  # noqa: F401 — fixtures
from tests.broker.mosquitto import program
from tests.operations.doctor.conftest import Examine
from wire_contract.link.mqtt import MqttLink

StartScripted = Callable[..., int]


class Authority:
    """Issues certificates by openssl into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        self._openssl(
            "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "9"
        )
        self._openssl("req", *key, "-keyout", "broker.key", "-out", "broker.csr", "-subj", "/CN=broker")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run([program("openssl"), *arguments], cwd=self.folder, check=True, capture_output=True)

    def server(self, *, name: str = "IP:127.0.0.1", days: int = 90) -> ssl.SSLContext:
        """A server's side with a certificate for `name` that ends in so many days; negative: so long ago."""
        (self.folder / "names").write_text(f"subjectAltName={name}\n")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"]
        # `x509 -days` takes no past; -1 day from now is one day ago.
        self._openssl("x509", "-req", "-in", "broker.csr", "-out", "broker.pem", *signing, "-days", str(days))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "broker.pem", self.folder / "broker.key")
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.folder / "ca.pem")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def silent(peer: object, first: bytes) -> None:
    """A broker that says nothing."""


def reached(port: int, tls: ssl.SSLContext | None, host: str = "127.0.0.1") -> Reached | Unreached:
    return reach(host, port, tls, seconds_max=60, clock=time.monotonic)


def test_a_good_certificate_and_its_days(authority: Authority, scripted_broker: StartScripted) -> None:  # noqa: F811
    port = scripted_broker(silent, authority.server(days=90))
    found = reached(port, authority.client())
    assert isinstance(found, Reached)
    assert found.is_local
    assert found.certificate_ends_unix is not None
    assert 89 < (found.certificate_ends_unix - time.time()) / 86_400 <= 90


def test_what_is_wrong_with_a_certificate_is_said_in_words(
    authority: Authority,
    scripted_broker: StartScripted,  # noqa: F811
) -> None:
    expired = reached(scripted_broker(silent, authority.server(days=-1)), authority.client())
    elsewhere = reached(scripted_broker(silent, authority.server(name="DNS:other.example")), authority.client())
    unknown = reached(scripted_broker(silent, authority.server()), ssl.create_default_context())
    plain = reached(scripted_broker(silent), authority.client())
    for found, words, advice in (
        (expired, "has expired", "renew"),
        (elsewhere, "is for another host", "subjectAltName"),
        (unknown, "unknown authority", "--tls-ca"),
        (plain, "", ""),
    ):
        assert isinstance(found, Unreached)
        assert words in found.line
        assert advice in found.advice


def test_names_that_do_not_exist() -> None:
    found = reached(1, None, "no-such-host.invalid")
    assert isinstance(found, Unreached)
    assert "no-such-host.invalid cannot be resolved" in found.line
    unspeakable = reached(1, None, "a" * 70 + ".invalid")
    assert isinstance(unspeakable, Unreached)


# When a TLS handshake fails, paho leaves the socket to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*SSLSocket:pytest.PytestUnraisableExceptionWarning")
def test_a_broker_as_in_production(locked: LockedBroker, bench: Enrolled, examine_broker: Examine) -> None:  # noqa: F811
    """Certificates of both roles; the session belongs to the name, and a password listener for browsers beside it."""
    url = f"mqtts://127.0.0.1:{locked.port}"
    device, aggregator = bench.tls("watch-1"), bench.tls("aggregator-1")
    certificates = {
        "tls_ca": device.ca_file,
        "tls_certificate": device.certificate_file,
        "tls_key": device.key_file,
        "device": "watch-1",
        "aggregator_certificate": aggregator.certificate_file,
        "aggregator_key": aggregator.key_file,
    }
    examined = examine_broker(url, **certificates, websocket=f"wss://127.0.0.1:{locked.websockets_port}/mqtt")
    assert examined.named("missing") == set()
    assert examined.named("warning") <= {"broker's memory", "TLS"}  # the test's certificate ends in 10 days
    assert examined.named("not checked") == set()
    assert examined.one("isolation").verdict == "ok"
    for name in ("watch-1", "aggregator-1"):
        link = MqttLink(locked.settings(name))
        (event,) = link.receive(count=1, timeout_seconds=60)
        assert not event.session_present  # type: ignore[union-attr]
        link.close()

    nobody = examine_broker(url, tls_ca=device.ca_file)
    assert exit_code(nobody.findings) != 0

    stranger = examine_broker(url)
    assert "unknown authority" in stranger.one("reachable").line
    assert exit_code(stranger.findings) == 2
