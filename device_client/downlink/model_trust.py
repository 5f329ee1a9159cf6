"""Which manifests a device with pinned keys trusts. Pure: the clock and the memory are passed in.

    signed by a pinned key? → of this task? → not expired? → not older than the last trusted version?

A manifest must pass all four checks to be remembered and used. The signature covers the manifest, and the manifest
covers the rest: chunks by their SHA-256, inline content directly, and fetched deltas because only weights with the
manifest's digest are ever held, whatever deltas led there.

Rollback protection remembers the highest trusted version, its digest and the keys that signed it, and is bound to these
keys: once none of them is pinned any more, it no longer applies. That is the way out after a key was stolen, or when a
model line is started again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from wire_contract.errors import DecodeError
from wire_contract.messages import Manifest
from wire_contract.signatures.envelope import unwrap
from wire_contract.signatures.signing import NotTrusted, PublicKey, verified_signers

CLOCK_SKEW_SECONDS = 300.0
"""How long after its expiry a manifest is still accepted: clocks of small devices are rarely accurate to the minute."""


@dataclass(frozen=True)
class TrustedVersion:
    """A version that was signed by a pinned key."""

    version: int
    digest: bytes
    key_ids: frozenset[bytes]
    """The pinned keys that signed it."""


class TrustMemory(Protocol):
    """Stores one `TrustedVersion`; on a device that trains, permanently."""

    def trusted_version(self) -> TrustedVersion | None: ...

    def save_trusted_version(self, trusted: TrustedVersion) -> None: ...


class VolatileTrustMemory:
    """For programs that start from nothing each time: the evaluator and the export."""

    def __init__(self) -> None:
        self._trusted: TrustedVersion | None = None

    def trusted_version(self) -> TrustedVersion | None:
        return self._trusted

    def save_trusted_version(self, trusted: TrustedVersion) -> None:
        self._trusted = trusted


class ModelTrust:
    """See the module."""

    def __init__(
        self,
        keys: Sequence[PublicKey],
        *,
        task: str,
        memory: TrustMemory,
        unix: Callable[[], float],
        clock_skew_seconds: float = CLOCK_SKEW_SECONDS,
    ) -> None:
        """`keys` are the pinned keys, at least one; `unix` returns the time in Unix seconds."""
        assert keys, "without pinned keys no manifest would be trusted"
        self._keys = tuple(keys)
        self._task = task
        self._memory = memory
        self._unix = unix
        self._clock_skew_seconds = clock_skew_seconds
        known = memory.trusted_version()
        self._known = known if known is not None and known.key_ids & self.key_ids else None

    @property
    def key_ids(self) -> frozenset[bytes]:
        """The ids of the pinned keys."""
        return frozenset(key.key_id for key in self._keys)

    def read(self, payload: bytes) -> Manifest:
        """Checks and decodes a manifest. The new trusted version is stored before this returns.

        Raises:
            NotTrusted: it must not be used; the message is one line that says why.
            DecodeError: it is not a manifest.
        """
        message = unwrap(payload, Manifest)
        key_ids = verified_signers(message, self._keys)
        manifest = message.open()
        if manifest.task != self._task:
            raise NotTrusted(f"it is of task {manifest.task!r}, not {self._task!r}")
        self._check_expiry(manifest)
        known = self._known
        if known is not None and manifest.version < known.version:
            raise NotTrusted(
                f"it announces version {manifest.version}, and version {known.version} was announced before; "
                f"{_remedy(known.version)}"
            )
        if known is not None and manifest.version == known.version:
            if manifest.digest != known.digest:
                raise NotTrusted(
                    f"version {manifest.version} was announced before with other weights; {_remedy(known.version)}"
                )
            key_ids |= known.key_ids
        trusted = TrustedVersion(manifest.version, manifest.digest, key_ids)
        if trusted != known:
            self._memory.save_trusted_version(trusted)
            self._known = trusted
        return manifest

    def _check_expiry(self, manifest: Manifest) -> None:
        if manifest.expires_at is None:
            return
        late_seconds = self._unix() - manifest.expires_at
        if late_seconds > self._clock_skew_seconds:
            raise NotTrusted(
                f"version {manifest.version} expired {late_seconds:.0f} s ago; is the aggregator running, and is "
                "this device's clock right?"
            )


def _remedy(version: int) -> str:
    return (
        "if the aggregator continues with an older or a new ledger, its operator moves that ledger forward: asyncfedkd "
        f"aggregator move-forward --version {version + 1}"
    )


def refusal(error: DecodeError) -> str:
    """The warning about a manifest that is not used; the held model stays."""
    if isinstance(error, NotTrusted):
        return f"a manifest was refused: {error}"
    return f"a manifest could not be read: {error}"
