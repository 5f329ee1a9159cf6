"""The broker on the table: both roles' settings, the probes' own topics, and what was learned of it so far.

Whatever probes leave at the broker (sessions, retained messages) is noted here, and taken away by `clean_up`.
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
"""How long a broker of MQTT 5 keeps a session of ours, should we be killed before we end it."""
CLEAN_UP_SECONDS_MAX = 8.0
SHARD = 0


class Session(NamedTuple):
    """One that the broker keeps for a client that is away."""

    role: Role
    client_id: str


class NotChecked(ProbeError):
    """What a probe needs is not given; the message says what to give."""


@dataclass
class BrokerUnderTest:
    """Filled by the first checks, used by the later ones."""

    roles: dict[Role, MqttSettings]
    """As the user gave them; the same for both where only one user is given."""
    two_roles: bool
    """The aggregator has a user of its own."""
    root: str
    task: str
    device: str
    client_prefix: str
    """Of the client ids; nobody has used it before."""
    queue_messages: int
    websocket: MqttSettings | None
    budget: TimeBudget
    protocol: Protocol = "auto"
    """Found by the first connections."""
    is_local: bool = False
    """The broker is on this machine."""
    certificate_ends_unix: float | None = None
    kind: Broker | None = None
    """What the broker says it is."""
    one_client_a_user: bool = False
    """The session belongs to the user, whatever client id is sent."""
    working_kinds: set[Kind] = field(default_factory=set)
    """Kinds of topic on which a message was seen to pass from its writer to its reader."""
    _sessions: set[Session] = field(default_factory=set)
    _entered: set[Role] = field(default_factory=set)
    """Roles that have made a session; what the first one is, must be seen before it may be ended."""
    sessions_made: list[Session] = field(default_factory=list)
    """All that there ever were in this examination."""
    _retained: dict[str, Role] = field(default_factory=dict)

    @property
    def other_device(self) -> str:
        """Another device than the one whose user is given."""
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
        """A topic of the probes."""
        return build(kind, root=self.root, task=self.task, **self._levels(kind, device, version))

    def filter(self, kind: Kind) -> str:
        """What the program that reads this kind subscribes to, of the probes' task."""
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
        NotChecked: two clients cannot be connected at once.
        """
        if self.one_client_a_user and not self.two_roles:
            raise NotChecked("give --aggregator-username too: here a user can connect only once at a time")

    def require(self, kind: Kind) -> str:
        """The topic, if messages of this kind pass.

        Raises:
            NotChecked: they do not.
        """
        self.require_two_clients()
        if kind not in self.working_kinds:
            raise NotChecked(
                f"messages on …/{self.topic(kind).rsplit(self.task + '/', maxsplit=1)[-1]} do not pass, see access"
                if self.two_roles
                else "give --aggregator-username and its password too: with this user alone it cannot be seen"
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
        """A client of this role, one at a time of each; without `session` the broker keeps nothing for it.

        Raises:
            ConnectionFailed: no connection comes about.
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
        if session is not None and role in self._entered:  # before: we may be interrupted when the broker has made it
            self._sessions.add(session)
        client = ProbeClient(settings, self.budget)
        if session is not None:
            self._sessions.add(session)
            self._entered.add(role)
        return client

    @contextlib.contextmanager
    def session(self, role: Role) -> Iterator[Session]:
        """A durable session of its own, which is ended with the block.

        Never of a client id that was without one before: amqtt would take it for the one that ended.
        """
        session = Session(role, f"{self.client_id(role)}{len(self.sessions_made) + 1}")
        self.sessions_made.append(session)
        try:
            yield session
        finally:
            if session in self._sessions:
                with contextlib.suppress(
                    ConnectionFailed, OutOfTime, LinkError
                ):  # then it is tried once more in the end
                    self._end(session)

    def anonymous_client(self) -> ProbeClient:
        """A client that says no name and shows no certificate."""
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
        """Publishes what must be deleted later. What became of it."""
        self._retained[topic] = role
        return client.publish(topic, payload, retain=True)

    def note_retained(self, topic: str, role: Role) -> None:
        """The broker may keep something there, without our publishing it (a will)."""
        self._retained[topic] = role

    def disown(self, session: Session) -> None:
        """It is somebody else's."""
        self._sessions.discard(session)

    def _end(self, session: Session) -> None:
        with ProbeClient(
            dataclasses.replace(self._settings_of(session.role), client_id=session.client_id), self.budget
        ):
            self._sessions.discard(session)

    @contextlib.contextmanager
    def proxy(self, role: Role) -> Iterator[Proxy]:
        """A way to the broker that can be cut."""
        settings = self.roles[role]
        upstream = Upstream(host=settings.host, port=settings.port, tls=settings.tls_context())
        with ProxyPool(upstream) as proxies:
            yield proxies.open()

    def clean_up(self, budget: TimeBudget) -> list[str]:
        """Ends our sessions, deletes our retained messages. What could not be done, in words."""
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
        """At most 23 characters: MQTT 3.1.1 promises no more."""
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
