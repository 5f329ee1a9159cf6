"""Publishes versions: deltas and chunks first, manifest last, all retained; deletes what is no longer kept."""

import logging
from collections.abc import Iterable

from wire_contract.codec import encode
from wire_contract.errors import LinkError
from wire_contract.link import Link
from wire_contract.manifest import Announcement
from wire_contract.messages import AggregatorStatus, Receipt
from wire_contract.topics import build

log = logging.getLogger(__name__)


class Publisher:
    """The aggregator's side of the topics. What the broker does not take now is said again on the next connection."""

    def __init__(self, link: Link, *, root: str, task: str, shard: int) -> None:
        self._link = link
        self._root = root
        self._task = task
        self._status_topic = build("aggregator", root=root, task=task, shard=shard)

    def model(self, announcement: Announcement, *, all_of_it: bool) -> bool:
        """Publishes a version; False when the link did not take it.

        Args:
            announcement: of the version.
            all_of_it: also what older versions have left on the broker, should it have lost it.
        """
        manifest = announcement.manifest
        try:
            for version, delta in announcement.deltas.items():
                if all_of_it or version == manifest.version:
                    self._link.publish(self._delta_topic(version), delta, retain=True)
            if all_of_it or manifest.snapshot_version == manifest.version:
                for index, chunk in enumerate(announcement.chunks):
                    self._link.publish(self._chunk_topic(manifest.snapshot_version, index), chunk, retain=True)
            topic = build("model", root=self._root, task=self._task)
            self._link.publish(topic, encode(manifest), retain=True)
        except LinkError as error:
            log.warning("version %d could not be published yet: %s", manifest.version, error)
            return False
        return True

    def delete_chunks(self, version: int, count: int) -> None:
        """Removes the retained chunks of an old snapshot from the broker."""
        try:
            for index in range(count):
                self._link.publish(self._chunk_topic(version, index), b"", retain=True)
        except LinkError as error:
            log.warning("old chunks of version %d stay on the broker for now: %s", version, error)

    def delete_deltas(self, versions: Iterable[int]) -> None:
        """Removes retained deltas that no longer lead anywhere from the broker."""
        try:
            for version in versions:
                self._link.publish(self._delta_topic(version), b"", retain=True)
        except LinkError as error:
            log.warning("old deltas stay on the broker for now: %s", error)

    def receipt(self, device: str, receipt: Receipt) -> None:
        """Answers a device. A receipt that is lost costs one duplicate: the device sends again and is told then."""
        try:
            self._link.publish(build("receipt", root=self._root, task=self._task, device=device), encode(receipt))
        except LinkError as error:
            log.warning("receipt for %s was not sent: %s", device, error)

    def status(self, status: AggregatorStatus) -> None:
        """Tells how the aggregator is."""
        try:
            self._link.publish(self._status_topic, encode(status), retain=True)
        except LinkError as error:
            log.warning("status was not sent: %s", error)

    def _chunk_topic(self, version: int, index: int) -> str:
        return build("chunk", root=self._root, task=self._task, version=version, chunk=index)

    def _delta_topic(self, version: int) -> str:
        return build("delta", root=self._root, task=self._task, version=version)
