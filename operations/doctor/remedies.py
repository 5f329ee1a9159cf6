"""Which setting remedies what, in each broker's own words.

Names as in the brokers' own documentation: mosquitto.conf(5) of 2.0, EMQX 5 (mqtt, retainer), HiveMQ 4 (config.xml),
nats-server 2.10 (mqtt, jetstream).
"""

from operations.doctor.finding import Remedies

RETAINED: Remedies = {
    "mosquitto": "retain_available true",
    "EMQX": "mqtt.retain_available = true and retainer.enable = true",
    "HiveMQ": "<retained-messages><enabled>true",
    "NATS": "jetstream enabled in the account of these users",
}
SESSION: Remedies = {
    "mosquitto": "persistent_client_expiration 30d, max_queued_messages 100000",
    "EMQX": "mqtt.session_expiry_interval = 30d",
    "HiveMQ": "<session-expiry><max-interval>2592000",
    "NATS": "jetstream enabled in the account of these users",
}
QUEUE: Remedies = {
    "mosquitto": "max_queued_messages 100000, max_queued_bytes 268435456",
    "EMQX": "mqtt.max_mqueue_len = 100000",
    "HiveMQ": "<queued-messages><max-queue-size>100000",
    "NATS": "jetstream max_file_store and the limits of the account",
}
UNQUEUED: Remedies = {
    "mosquitto": "queue_qos0_messages false",
    "EMQX": "mqtt.mqueue_store_qos0 = false",
}
IN_FLIGHT: Remedies = {
    "mosquitto": "max_inflight_messages 100",
    "EMQX": "mqtt.max_inflight = 100",
    "NATS": "mqtt { max_ack_pending: 1024 }",
}
PACKET: Remedies = {
    "mosquitto": "message_size_limit 1048576, and no max_packet_size",
    "EMQX": "mqtt.max_packet_size = 2MB",
    "HiveMQ": "<packets><max-packet-size>2097152",
    "NATS": "max_payload: 2MB",
}
QUALITY: Remedies = {
    "mosquitto": "max_qos 1 or 2 on this listener",
    "EMQX": "mqtt.max_qos_allowed = 1 or 2",
    "HiveMQ": "<quality-of-service><max-qos>1 or 2",
}
ANONYMOUS: Remedies = {
    "mosquitto": "allow_anonymous false, password_file",
    "EMQX": "an entry in authentication = [ … ]",
    "HiveMQ": "remove hivemq-allow-all-extension, add an access control extension",
    "NATS": "users in authorization or accounts, and no no_auth_user",
}
ACCESS: Remedies = {
    "mosquitto": "acl_file",
    "EMQX": "authorization.sources, and authorization.no_match = deny",
    "HiveMQ": "permissions of the access control extension",
    "NATS": "permissions { publish, subscribe } of each user",
}
ENCRYPTION: Remedies = {
    "mosquitto": "listener 8883 with cafile, certfile, keyfile",
    "EMQX": "listeners.ssl.default",
    "HiveMQ": "<tls-tcp-listener>",
    "NATS": "mqtt { tls { cert_file, key_file } }",
}
WEBSOCKET: Remedies = {
    "mosquitto": "listener 8083, then protocol websockets",
    "EMQX": "listeners.ws.default",
    "HiveMQ": "<websocket-listener>",
    "NATS": "websocket { port } beside mqtt",
}
DURABLE: Remedies = {
    "mosquitto": "persistence true, autosave_interval 30; or mosquitto 2.1 with persist-sqlite and flush_period 0",
}
