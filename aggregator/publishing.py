"""Publishes versions: deltas and chunks first, manifest last, all retained; deletes what is no longer kept."""

import logging
from collections.abc import Iterable, Sequence

from wire_contract.codec import encode
from wire_contract.errors import LinkError, PayloadTooLarge
from wire_contract.link import Link
from wire_contract.manifest import Announcement
from wire_contract.messages import AggregatorStatus, Receipt
from wire_contract.signing import SigningKey, sign
from wire_contract.topics import build

log = logging.getLogger(__name__)


class Publisher:
    """The aggregator's side of the topics. What the broker does not take now is said again on the next connection."""

    def __init__(
        self, link: Link, *, root: str, task: str, shard: int, signing_keys: Sequence[SigningKey] = ()
    ) -> None:
        """Without signing keys manifests go out plain."""
        self._link = link
        self._root = root
        self._task = task
        self._signing_keys = signing_keys
        self._status_topic = build("aggregator", root=root, task=task, shard=shard)
        self.published_bytes = 0
        """Payloads that the link took."""

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
                    self._delta(version, delta)
            if all_of_it or manifest.snapshot_version == manifest.version:
                for index, chunk in enumerate(announcement.chunks):
                    self._send(self._chunk_topic(manifest.snapshot_version, index), chunk, retain=True)
            self._manifest(announcement)
        except LinkError as error:
            log.warning("version %d could not be published yet: %s", manifest.version, error)
            return False
        return True

    def _delta(self, version: int, delta: bytes) -> None:
        """One that the broker would refuse must not hold up the version: devices then take its snapshot."""
        try:
            self._send(self._delta_topic(version), delta, retain=True)
        except PayloadTooLarge as error:
            log.warning(
                "delta %d was not published, so devices fall back to snapshots: %s; lower --delta-message-bytes-max",
                version,
                error,
            )

    def manifest_again(self, announcement: Announcement) -> bool:
        """Publishes the manifest alone, for a later expiry; False when the link did not take it."""
        try:
            self._manifest(announcement)
        except LinkError as error:
            log.warning("the manifest could not be published again yet: %s", error)
            return False
        return True

    def _manifest(self, announcement: Announcement) -> None:
        topic = build("model", root=self._root, task=self._task)
        self._send(topic, sign(announcement.manifest, self._signing_keys), retain=True)

    def delete_chunks(self, version: int, count: int) -> None:
        """Removes the retained chunks of an old snapshot from the broker."""
        try:
            for index in range(count):
                self._send(self._chunk_topic(version, index), b"", retain=True)
        except LinkError as error:
            log.warning("old chunks of version %d stay on the broker for now: %s", version, error)

    def delete_deltas(self, versions: Iterable[int]) -> None:
        """Removes retained deltas that no longer lead anywhere from the broker."""
        try:
            for version in versions:
                self._send(self._delta_topic(version), b"", retain=True)
        except LinkError as error:
            log.warning("old deltas stay on the broker for now: %s", error)

    def receipt(self, device: str, receipt: Receipt) -> None:
        """Answers a device. A receipt that is lost costs one duplicate: the device sends again and is told then."""
        try:
            self._send(build("receipt", root=self._root, task=self._task, device=device), encode(receipt))
        except LinkError as error:
            log.warning("receipt for %s was not sent: %s", device, error)

    def status(self, status: AggregatorStatus) -> None:
        """Tells how the aggregator is."""
        try:
            self._send(self._status_topic, encode(status), retain=True)
        except LinkError as error:
            log.warning("status was not sent: %s", error)

    def _send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._link.publish(topic, payload, retain=retain)
        self.published_bytes += len(payload)

    def _chunk_topic(self, version: int, index: int) -> str:
        return build("chunk", root=self._root, task=self._task, version=version, chunk=index)

    def _delta_topic(self, version: int) -> str:
        return build("delta", root=self._root, task=self._task, version=version)
