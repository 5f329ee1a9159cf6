"""Client ids: under which name a program's durable session stands at a broker.

    default root `fedkd/v1`    fedkd:TASK:DEVICE           fedkd-aggregator-TASK-SHARD
    another root               fedkd:TASK:DEVICE:HASH      fedkd-aggregator-TASK-SHARD:HASH

HASH is the first 8 hexadecimal digits of the SHA-256 of the root, so that two federations on one broker never take
each other's session. With the default root an id is what it was before roots counted: an upgraded program finds its
session, and what the broker has queued in it. Names hold no colon, so no two programs get the same id.

An id is at most 144 bytes long, and seldom over 64. MQTT 3.1.1 promises only 23, but mosquitto, EMQX, HiveMQ, NATS and
amqtt take 65,535; where a broker takes less (AWS IoT Core: 128), `--client-id` gives a shorter one.
"""

import hashlib

from wire_contract.topics import DEFAULT_ROOT

_HASH_DIGITS = 8


def client_id_below(client_id: str, root: str) -> str:
    """The id of a program below this topic root."""
    if root == DEFAULT_ROOT:
        return client_id
    return f"{client_id}:{hashlib.sha256(root.encode()).hexdigest()[:_HASH_DIGITS]}"
