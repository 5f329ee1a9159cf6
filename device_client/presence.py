"""A device's subscriptions and presence: online on every connection, offline as will and on a clean stop."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from wire_contract import codec, topics
from wire_contract.link.protocol import QoS, Will
from wire_contract.messages import Presence


def subscriptions(root: str, task: str, device: str) -> Mapping[str, QoS]:
    """A device's permanent subscriptions: manifests and its own receipts. Deltas and chunks are subscribed to on
    demand.
    """
    return {
        **topics.subscription("model", root=root, task=task),
        **topics.subscription("receipt", root=root, task=task, device=device),
    }


def presence_topic(root: str, task: str, device: str) -> str:
    return topics.build("presence", root=root, task=task, device=device)


def online(firmware: str, capability: Mapping[str, str]) -> bytes:
    return codec.encode(Presence(status="online", firmware=firmware, capability=dict(capability)))


def offline(firmware: str) -> bytes:
    return codec.encode(Presence(status="offline", firmware=firmware))


def will(root: str, task: str, device: str, *, firmware: str) -> Will:
    """The presence that the broker publishes when the connection breaks."""
    return Will(presence_topic(root, task, device), offline(firmware))


def this_firmware() -> str:
    """Name and version of this program."""
    try:
        return f"asyncfedkd {version('asyncfedkd')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "asyncfedkd"
