"""The broker that is checked: both roles' settings, the probes' topics, and what earlier checks found.

It records what probes leave on the broker (sessions, retained messages), and `clean_up` removes it.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from operations.doctor.client import ConnectionFailed, OutOfTime, ProbeClient, ProbeError, TimeBudget
from operations.doctor.finding import Broker
from operations.proxy import Proxy, ProxyPool, Upstream
from wire_contract.errors import LinkError
from wire_contract.limits import MIB
from wire_contract.link.mqtt import MqttSettings
from wire_contract.link.mqtt_settings import Protocol, Tls
from wire_contract.link.protocol import QoS, Will
from wire_contract.topics import Kind, build, topic_filter

Role = Literal["device", "aggregator"]

SESSION_SECONDS = 600
"""Expiry of our sessions with MQTT 5, in case the doctor is killed before it ends them."""
CLEAN_UP_SECONDS_MAX = 8.0
"""With `EXAMINATION_SECONDS_MAX` less than a minute."""
SHARD = 0


class Session(NamedTuple):
    """A durable session, which the broker keeps while the client is away."""

    role: Role
    client_id: str


class NotChecked(ProbeError):
    """A probe lacks an input; the message says which flag to give."""


@dataclass
class BrokerUnderTest:
    """Filled in by the first checks, used by later ones."""

    roles: dict[Role, MqttSettings]
    """Connection settings by role, as given; the same for both if only one user is given."""
    two_roles: bool
    """The aggregator has its own user."""
    root: str
    task: str
    device: str
    client_prefix: str
    """Prefix of the client ids; new for each examination."""
    queue_messages: int
    websocket: MqttSettings | None
    budget: TimeBudget
    protocol: Protocol = "auto"
    """Determined by the first connections."""
    is_local: bool = False
    """The broker runs on this machine."""
    certificate_ends_unix: float | None = None
    kind: Broker | None = None
    """The product, as the broker reports it."""
    one_client_a_user: bool = False
    """The broker keeps one session per user and ignores client ids."""
    working_kinds: set[Kind] = field(default_factory=set)
    """Kinds of topic on which a message got from its writer to its reader."""
    _sessions: set[Session] = field(default_factory=set)
    _entered: set[Role] = field(default_factory=set)
    """Roles that have opened a session; a first one may belong to another program and is not ended unchecked."""
    sessions_made: list[Session] = field(default_factory=list)
    """All sessions of this examination."""
    _retained: dict[str, Role] = field(default_factory=dict)

    @property
    def other_device(self) -> str:
        """The name of a device other than the one whose user is given."""
        return f"{self.task}-other"

    @property
    def has_credentials(self) -> bool:
        settings = self.roles["device"]
        return settings.username is not None or self.has_certificate

    @property
    def has_certificate(self) -> bool:
        tls = self.roles["device"].tls
        return isinstance(tls, Tls) and tls.certificate_file is not None

    def topic(self, kind: Kind, *, device: str | None = None, version: int = 1) -> str:
        """A topic for the probes."""
        return build(kind, root=self.root, task=self.task, **self._levels(kind, device, version))

    def filter(self, kind: Kind) -> str:
        """The topic filter that the reader of this kind subscribes to, for the probes' task."""
        levels = self._levels(kind, None, 1)
        if kind in {"update", "evaluation", "presence"}:
            levels.pop("device")
        levels.pop("chunk", None)
        return topic_filter(kind, root=self.root, task=self.task, **levels)

    def _levels(self, kind: Kind, device: str | None, version: int) -> dict[str, str | int]:
        name = device or self.device
        levels: dict[Kind, dict[str, str | int]] = {
            "model": {},
            "chunk": {"version": version, "chunk": 0},
            "delta": {"version": version},
            "update": {"shard": SHARD, "device": name},
            "aggregator": {"shard": SHARD},
        }
        return levels.get(kind, {"device": name})

    def require_two_clients(self) -> None:
        """Raises:
        NotChecked: two clients cannot be connected at the same time.
        """
        if self.one_client_a_user and not self.two_roles:
            raise NotChecked("also give --aggregator-username: this broker allows only one connection per user")

    def require(self, kind: Kind) -> str:
        """The topic, if messages of this kind get through.

        Raises:
            NotChecked: they do not.
        """
        self.require_two_clients()
        if kind not in self.working_kinds:
            raise NotChecked(
                f"messages on …/{self.topic(kind).rsplit(self.task + '/', maxsplit=1)[-1]} do not arrive, see access"
                if self.two_roles
                else "also give --aggregator-username and its password: this user may not read what it writes"
            )
        return self.topic(kind)

    def connect(
        self,
        role: Role,
        *subscriptions: str,
        qos: QoS = 1,
        session: Session | None = None,
        session_seconds: int = SESSION_SECONDS,
        will: Will | None = None,
        proxy: Proxy | None = None,
        receive_maximum: int = 256,
    ) -> ProbeClient:
        """Connects a client of this role, one at a time; without `session` the broker keeps nothing.

        Raises:
            ConnectionFailed: no connection was made.
        """
        settings = dataclasses.replace(
            self._settings_of(role),
            subscriptions=dict.fromkeys(subscriptions, qos),
            will=will,
            receive_maximum=receive_maximum,
        )
        if session is not None:
            settings = dataclasses.replace(
                settings,
                client_id=session.client_id,
                clean_start=False,
                session_expiry_seconds=session_seconds,
            )
        if proxy is not None:
            settings = dataclasses.replace(settings, host="127.0.0.1", port=proxy.port, tls=None)
        if (
            session is not None and role in self._entered
        ):  # noted before connecting: we may be interrupted after the broker has created it
            self._sessions.add(session)
        client = ProbeClient(settings, self.budget)
        if session is not None:
            self._sessions.add(session)
            self._entered.add(role)
        return client

    @contextlib.contextmanager
    def session(self, role: Role) -> Iterator[Session]:
        """A new durable session, which is ended with the block.

        Each session has a new client id: amqtt confuses a session with an ended one of the same id.
        """
        session = Session(role, f"{self.client_id(role)}{len(self.sessions_made) + 1}")
        self.sessions_made.append(session)
        try:
            yield session
        finally:
            if session in self._sessions:
                with contextlib.suppress(ConnectionFailed, OutOfTime, LinkError):  # clean_up tries again
                    self._end(session)

    def anonymous_client(self) -> ProbeClient:
        """Connects a client without user name and certificate."""
        settings = self._settings_of("device")
        tls = settings.tls
        if isinstance(tls, Tls):
            tls = dataclasses.replace(tls, certificate_file=None, key_file=None)
        return ProbeClient(
            dataclasses.replace(
                settings, client_id=self.client_id("any"), username=None, password=None, password_file=None, tls=tls
            ),
            self.budget,
        )

    def retain(self, client: ProbeClient, role: Role, topic: str, payload: bytes) -> str:
        """Publishes a retained message, which `clean_up` deletes. Returns the outcome."""
        self._retained[topic] = role
        return client.publish(topic, payload, retain=True)

    def note_retained(self, topic: str, role: Role) -> None:
        """The broker may retain a message on this topic without our publishing it (a will)."""
        self._retained[topic] = role

    def disown(self, session: Session) -> None:
        """The session belongs to another program: `clean_up` must not end it."""
        self._sessions.discard(session)

    def _end(self, session: Session) -> None:
        with ProbeClient(
            dataclasses.replace(self._settings_of(session.role), client_id=session.client_id), self.budget
        ):
            self._sessions.discard(session)

    @contextlib.contextmanager
    def proxy(self, role: Role) -> Iterator[Proxy]:
        """A proxy to the broker, which can be cut."""
        settings = self.roles[role]
        upstream = Upstream(host=settings.host, port=settings.port, tls=settings.tls_context())
        with ProxyPool(upstream) as proxies:
            yield proxies.open()

    def clean_up(self, budget: TimeBudget) -> list[str]:
        """Ends our sessions and deletes our retained messages. Returns what could not be removed."""
        self.budget = budget
        left = []
        for session in tuple(self._sessions):
            try:
                self._end(session)
            except (ConnectionFailed, OutOfTime, LinkError):
                left.append(f"the session {session.client_id}")
        for topic, role in self._retained.items():
            try:
                with self.connect(role) as client:
                    deleted = client.publish(topic, b"", retain=True) == "acknowledged"
            except (ConnectionFailed, OutOfTime, LinkError):
                deleted = False
            left += [] if deleted else [topic]
        return left

    def client_id(self, who: str) -> str:
        """At most 23 characters: MQTT 3.1.1 guarantees no more."""
        return f"{self.client_prefix}-{who[:3]}"

    def _settings_of(self, role: Role) -> MqttSettings:
        return dataclasses.replace(
            self.roles[role],
            client_id=self.client_id(role),
            protocol=self.protocol,
            clean_start=True,
            session_expiry_seconds=0,
            packet_bytes_max=2 * MIB,
            keepalive_seconds=30,
            reconnect_delay_seconds=0.1,
            reconnect_delay_max_seconds=0.5,
            close_seconds_max=0.5,
        )
