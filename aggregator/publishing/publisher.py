"""Publishes versions as retained messages: deltas and chunks first, the manifest last. Deletes expired ones.

Only messages that are not on the broker yet are published (`retained_state.py`). A message that the link does not
accept, because its queue is full, still counts as missing (or as surplus) and is tried again.
"""

import logging
from collections.abc import Collection, Sequence

from aggregator.publishing.retained_state import RetainedState, sha256
from wire_contract.codec import encode
from wire_contract.errors import LinkError, PayloadTooLarge
from wire_contract.link.protocol import Link
from wire_contract.messages import AggregatorStatus, Manifest, Receipt
from wire_contract.publication.manifest import Announcement
from wire_contract.signatures.signing import SigningKey, sign
from wire_contract.topics import build

log = logging.getLogger(__name__)


class Publisher:
    """Publishes everything that the aggregator sends."""

    def __init__(
        self, link: Link, *, root: str, task: str, shard: int, signing_keys: Sequence[SigningKey] = ()
    ) -> None:
        """Each of `signing_keys` signs every manifest; without any, manifests are unsigned."""
        self._link = link
        self._root = root
        self._task = task
        self._signing_keys = signing_keys
        self._status_topic = build("aggregator", root=root, task=task, shard=shard)
        self.model_topic = build("model", root=root, task=task)
        self.retained = RetainedState()
        self.newest: Manifest | None = None
        """The manifest that was published last."""
        self.published_bytes = 0
        """Payload bytes that the link accepted."""

    def model(self, announcement: Announcement) -> bool:
        """Publishes the messages of a version that are not on the broker; False if the link did not accept all of them.

        If anything was missing, the manifest is published again, last: devices that gave up on a delta or a chunk then
        try again.
        """
        self.newest = newest = announcement.manifest
        deltas = {self.delta_topic(version): delta for version, delta in announcement.deltas.items()}
        topics = [self.chunk_topic(newest.snapshot_version, index) for index in range(len(announcement.chunks))]
        chunks = dict(zip(topics, announcement.chunks, strict=True))
        manifest = sign(newest, self._signing_keys)
        self.retained.want(
            {
                **{topic: sha256(delta) for topic, delta in deltas.items()},
                **dict(zip(topics, newest.chunk_digests, strict=True)),
                self.model_topic: sha256(manifest),
            }
        )
        missing = self.retained.missing()
        try:
            for topic in missing:
                if topic in deltas:
                    self._delta(topic, deltas[topic])
                elif topic in chunks:
                    self._send(topic, chunks[topic], retain=True)
            if missing:
                self._send(self.model_topic, manifest, retain=True)
        except LinkError as error:
            log.warning("version %d could not be published yet: %s", newest.version, error)
            return False
        return True

    def tidy(self, kept: Collection[str]) -> bool:
        """Deletes retained messages that are neither of the newest version nor in `kept`; False: some remain."""
        try:
            for topic in self.retained.surplus(kept):
                self._send(topic, b"", retain=True)
        except LinkError as error:
            log.warning("old deltas and chunks stay on the broker for now: %s", error)
            return False
        return True

    def receipt(self, device: str, receipt: Receipt) -> None:
        """Answers a device. A lost receipt costs one duplicate: the device resends and is answered again."""
        try:
            self._send(build("receipt", root=self._root, task=self._task, device=device), encode(receipt))
        except LinkError as error:
            log.warning("receipt for %s was not sent: %s", device, error)

    def status(self, status: AggregatorStatus) -> None:
        """Publishes the aggregator's status."""
        try:
            self._send(self._status_topic, encode(status), retain=True)
        except LinkError as error:
            log.warning("status was not sent: %s", error)

    def chunk_topic(self, version: int, index: int) -> str:
        """Topic of one chunk of a snapshot."""
        return build("chunk", root=self._root, task=self._task, version=version, chunk=index)

    def delta_topic(self, version: int) -> str:
        """Topic of the delta that leads to `version`."""
        return build("delta", root=self._root, task=self._task, version=version)

    def _delta(self, topic: str, delta: bytes) -> None:
        """A delta that is too large for the broker must not block the version: devices download the snapshot
        instead.
        """
        try:
            self._send(topic, delta, retain=True)
        except PayloadTooLarge as error:
            self.retained.given_up(topic)
            log.warning(
                "%s was not published, so devices fall back to snapshots: %s; lower --delta-message-bytes-max",
                topic,
                error,
            )

    def _send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._link.publish(topic, payload, retain=retain)
        self.published_bytes += len(payload)
        if retain and topic != self._status_topic:
            self.retained.published(topic, payload)
