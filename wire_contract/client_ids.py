"""MQTT client ids, which name a program's durable session at the broker.

    default root `fedkd/v1`    fedkd:TASK:DEVICE           fedkd-aggregator-TASK-SHARD
    another root               fedkd:TASK:DEVICE:HASH      fedkd-aggregator-TASK-SHARD:HASH

HASH is the first 8 hexadecimal digits of the SHA-256 of the root, so that two federations on one broker never take over
each other's session. With the default root, an id is the same as in releases without the hash, so that an upgraded
program finds its session with the messages queued in it. Names contain no colon, so no two programs get the same id.

An id is at most 144 bytes long, and rarely over 64. MQTT 3.1.1 guarantees only 23, but mosquitto, EMQX, HiveMQ, NATS
and amqtt accept 65,535; for a broker that accepts less (AWS IoT Core: 128), set `--client-id`.
"""

import hashlib

from wire_contract.topics import DEFAULT_ROOT

_HASH_DIGITS = 8
"""32 bits: chosen to keep ids short; only the few roots of one broker have to differ."""


def client_id_below(client_id: str, root: str) -> str:
    """The client id of a program whose topics are below `root`."""
    if root == DEFAULT_ROOT:
        return client_id
    return f"{client_id}:{hashlib.sha256(root.encode()).hexdigest()[:_HASH_DIGITS]}"
