"""How the programs of a run reach the broker: URL, credentials, topic prefix; and a check that it answers."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from operations.proxy import Upstream
from simulators.audit.observer import Observations, Observer, subscriptions
from simulators.demo.settings import DemoSettings
from simulators.network import embedded_broker
from simulators.processes.processes import Processes
from wire_contract.layout import Layout
from wire_contract.link.mqtt import MqttLink, MqttSettings
from wire_contract.topics import DEFAULT_ROOT, check_root

CLIENT_PREFIX = "fedkd-demo"
"""The same in every run, so that a user's own broker keeps one durable session per program, not one more per run."""


@dataclass(frozen=True, kw_only=True)
class BrokerAccess:
    """What each program of the run needs to connect to the broker."""

    broker: str
    """URL without user and password."""
    root: str
    protocol: str
    environment: Mapping[str, str]
    """User name and password; not on the command line, which other users can read."""
    tls_flags: tuple[str, ...] = ()

    def flags(self, name: str, *, task: str, proxy_port: int | None = None) -> list[str]:
        """Connection flags of one program; through its proxy, if it has one."""
        return [
            *("--task", task, "--root", self.root, "--mqtt", self.protocol, "--client-id", f"{CLIENT_PREFIX}-{name}"),
            *(
                ["--broker", self.broker, *self.tls_flags]
                if proxy_port is None
                else ["--broker", self.url_through(proxy_port)]
            ),
        ]

    def url_through(self, proxy_port: int) -> str:
        """URL of the broker through a proxy; without TLS, which the proxy adds."""
        scheme, _, rest = self.broker.partition("://")
        path = "/" + rest.partition("/")[2] if "/" in rest else ""
        return f"{'ws' if scheme.startswith('ws') else 'mqtt'}://127.0.0.1:{proxy_port}{path}"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A broker that has answered."""

    access: BrokerAccess
    upstream: Upstream
    """The broker's address, for the devices' proxies."""
    observer: Observer
    shown: str
    """How the report names the broker."""


def connect(
    settings: DemoSettings,
    broker: embedded_broker.StartedBroker | None,
    *,
    task: str,
    student: Layout,
    processes: Processes,
    seconds_max: float,
) -> Connection:
    """Checks that the broker accepts a connection, and starts the observer.

    Raises:
        Unreachable: the broker does not answer, or refuses the connection.
        ProcessError: the embedded broker does not start.
    """
    root = check_root(settings.root) if settings.root else f"{DEFAULT_ROOT.split('/')[0]}/demo-{secrets.token_hex(4)}"
    if broker is not None:
        url = embedded_broker.await_url(broker, processes)
        update = {
            "broker": url,
            "username": broker.credentials.username,
            "password": SecretStr(broker.credentials.password),
            "password_file": None,
            "mqtt": embedded_broker.PROTOCOL,
        }
        settings = settings.model_copy(update=update)
    mqtt = settings.model_copy(
        update={"root": root}
    ).mqtt_settings(  # the root is part of the client id: two demos may share a broker
        client_id=f"{CLIENT_PREFIX}-observer", subscriptions=subscriptions(root=root, task=task)
    )
    observer = Observer(MqttLink(mqtt), Observations(root=root, student=student))
    try:
        observer.await_connection(seconds_max)
    except BaseException:
        observer.close()
        raise
    return Connection(
        access=_broker_access(settings, mqtt, root),
        upstream=Upstream(host=mqtt.host, port=mqtt.port, tls=mqtt.tls_context()),
        observer=observer,
        shown="amqtt, embedded" if broker is not None else mqtt.address,
    )


def _broker_access(settings: DemoSettings, mqtt: MqttSettings, root: str) -> BrokerAccess:
    scheme, _, rest = settings.broker.partition("://")
    named = {
        "FEDKD_USERNAME": mqtt.username,
        "FEDKD_PASSWORD": mqtt.password,
        "FEDKD_RECONNECT_SPREAD_SECONDS": "1",  # the default spreads a large fleet; here it would only cost time
    }
    files = {"--tls-ca": settings.tls_ca, "--tls-certificate": settings.tls_certificate, "--tls-key": settings.tls_key}
    return BrokerAccess(
        broker=f"{scheme}://{rest.rpartition('@')[2]}",
        root=root,
        protocol=settings.mqtt,
        environment={name: value for name, value in named.items() if value is not None},
        tls_flags=tuple(part for flag, file in files.items() if file is not None for part in (flag, str(file))),
    )
