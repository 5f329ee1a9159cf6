"""What the doctor finds, and what mends it: values and tables, no probing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["ok", "missing", "warning", "not checked"]

Broker = Literal["mosquitto", "EMQX", "HiveMQ", "NATS"]

Mending = Mapping[Broker, str]
"""The setting that mends it, in each broker's own words."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    """What was looked at."""
    verdict: Verdict
    """missing: the contract needs it; warning: it works, and somebody should know."""
    line: str
    """What was seen, in one sentence."""
    mend: str = ""
    """What to do on any broker, or on the side of whoever asked."""
    mending: Mending = field(default_factory=dict)
    otherwise: str = ""
    """What may be done instead; told last."""


REACHABLE = "reachable"

ALL_WELL, SOMETHING_MISSING, UNREACHABLE = 0, 1, 2


def exit_code(findings: Sequence[Finding]) -> int:
    """0: all that is needed is there. 1: something is missing. 2: the broker could not be reached."""
    missing = {finding.name for finding in findings if finding.verdict == "missing"}
    if REACHABLE in missing:
        return UNREACHABLE
    return SOMETHING_MISSING if missing else ALL_WELL


# Names of settings as in the brokers' own documentation: mosquitto.conf(5) of 2.0, EMQX 5 (mqtt, retainer), HiveMQ 4
# (config.xml), nats-server 2.10 (mqtt, jetstream).
RETAINED: Mending = {
    "mosquitto": "retain_available true",
    "EMQX": "mqtt.retain_available = true and retainer.enable = true",
    "HiveMQ": "<retained-messages><enabled>true",
    "NATS": "jetstream enabled in the account of these users",
}
SESSION: Mending = {
    "mosquitto": "persistent_client_expiration 30d, max_queued_messages 100000",
    "EMQX": "mqtt.session_expiry_interval = 30d",
    "HiveMQ": "<session-expiry><max-interval>2592000",
    "NATS": "jetstream enabled in the account of these users",
}
QUEUE: Mending = {
    "mosquitto": "max_queued_messages 100000, max_queued_bytes 268435456",
    "EMQX": "mqtt.max_mqueue_len = 100000",
    "HiveMQ": "<queued-messages><max-queue-size>100000",
    "NATS": "jetstream max_file_store and the limits of the account",
}
UNQUEUED: Mending = {
    "mosquitto": "queue_qos0_messages false",
    "EMQX": "mqtt.mqueue_store_qos0 = false",
}
IN_FLIGHT: Mending = {
    "mosquitto": "max_inflight_messages 100",
    "EMQX": "mqtt.max_inflight = 100",
    "NATS": "mqtt { max_ack_pending: 1024 }",
}
PACKET: Mending = {
    "mosquitto": "message_size_limit 1048576, and no max_packet_size",
    "EMQX": "mqtt.max_packet_size = 2MB",
    "HiveMQ": "<packets><max-packet-size>2097152",
    "NATS": "max_payload: 2MB",
}
QUALITY: Mending = {
    "mosquitto": "max_qos 1 or 2 on this listener",
    "EMQX": "mqtt.max_qos_allowed = 1 or 2",
    "HiveMQ": "<quality-of-service><max-qos>1 or 2",
}
ANONYMOUS: Mending = {
    "mosquitto": "allow_anonymous false, password_file",
    "EMQX": "an entry in authentication = [ … ]",
    "HiveMQ": "remove hivemq-allow-all-extension, add an access control extension",
    "NATS": "users in authorization or accounts, and no no_auth_user",
}
ACCESS: Mending = {
    "mosquitto": "acl_file",
    "EMQX": "authorization.sources, and authorization.no_match = deny",
    "HiveMQ": "permissions of the access control extension",
    "NATS": "permissions { publish, subscribe } of each user",
}
ENCRYPTION: Mending = {
    "mosquitto": "listener 8883 with cafile, certfile, keyfile",
    "EMQX": "listeners.ssl.default",
    "HiveMQ": "<tls-tcp-listener>",
    "NATS": "mqtt { tls { cert_file, key_file } }",
}
WEBSOCKET: Mending = {
    "mosquitto": "listener 8083, then protocol websockets",
    "EMQX": "listeners.ws.default",
    "HiveMQ": "<websocket-listener>",
    "NATS": "websocket { port } beside mqtt",
}
DURABLE: Mending = {
    "mosquitto": "persistence true, autosave_interval 30; or mosquitto 2.1 with persist-sqlite and flush_period 0",
}
