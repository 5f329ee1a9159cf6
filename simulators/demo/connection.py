"""How everybody reaches the broker: which one, as whom, below which topics, and whether it answers at all."""

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
"""The same in every run, so that a broker of the user's keeps one durable session of each, not one more a run."""


@dataclass(frozen=True, kw_only=True)
class BrokerAccess:
    """What every program of this run is given to reach the broker."""

    broker: str
    """URL without user and password."""
    root: str
    protocol: str
    environment: Mapping[str, str]
    """User name and password; not on the command line, which others can read."""
    tls_flags: tuple[str, ...] = ()

    def flags(self, name: str, *, task: str, proxy_port: int | None = None) -> list[str]:
        """Flags of a program that speaks to the broker, over its own line where it has one."""
        return [
            *("--task", task, "--root", self.root, "--mqtt", self.protocol, "--client-id", f"{CLIENT_PREFIX}-{name}"),
            *(
                ["--broker", self.broker, *self.tls_flags]
                if proxy_port is None
                else ["--broker", self.url_through(proxy_port)]
            ),
        ]

    def url_through(self, proxy_port: int) -> str:
        """URL of the broker at the near end of a line, which is never encrypted."""
        scheme, _, rest = self.broker.partition("://")
        path = "/" + rest.partition("/")[2] if "/" in rest else ""
        return f"{'ws' if scheme.startswith('ws') else 'mqtt'}://127.0.0.1:{proxy_port}{path}"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A broker that answered."""

    access: BrokerAccess
    upstream: Upstream
    """Where the devices' lines lead."""
    observer: Observer
    shown: str
    """For a person."""


def connect(
    settings: DemoSettings,
    broker: embedded_broker.StartedBroker | None,
    *,
    task: str,
    student: Layout,
    processes: Processes,
    seconds_max: float,
) -> Connection:
    """Looks whether the broker is there and lets us in; begins to look on.

    Raises:
        Unreachable: it is not, or does not.
        ProcessError: the embedded broker does not come up.
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
    mqtt = settings.model_copy(update={"root": root}).mqtt_settings(  # or two demos at one broker would be one client
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
        "FEDKD_RECONNECT_SPREAD_SECONDS": "1",  # so few devices need not be spread
    }
    files = {"--tls-ca": settings.tls_ca, "--tls-certificate": settings.tls_certificate, "--tls-key": settings.tls_key}
    return BrokerAccess(
        broker=f"{scheme}://{rest.rpartition('@')[2]}",
        root=root,
        protocol=settings.mqtt,
        environment={name: value for name, value in named.items() if value is not None},
        tls_flags=tuple(part for flag, file in files.items() if file is not None for part in (flag, str(file))),
    )
