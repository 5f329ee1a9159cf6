"""Which manifests a device with pinned keys believes. Pure: the clock and the memory arrive as arguments.

    signed by a pinned key? → of this task? → not expired? → not older than what was believed before?

Only what passes all four is remembered and used. The signature covers the manifest, and the manifest the rest: chunks
by their SHA-256, what stands in it because it stands there, and deltas that are fetched because only weights with the
digest that it states are ever held, whatever lay on the way there.

The memory is the highest version that was believed, with its digest and the keys that vouched for it. Once none of
those keys is pinned any more, their word no longer counts: the way out after a key was stolen, or a line begun anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from wire_contract.errors import DecodeError
from wire_contract.messages import Manifest
from wire_contract.signatures.envelope import unwrap
from wire_contract.signatures.signing import NotTrusted, PublicKey, verified_signers

CLOCK_SKEW_SECONDS = 300.0
"""So much later than it says a manifest still counts: clocks of small devices are seldom right to the minute."""


@dataclass(frozen=True)
class TrustedVersion:
    """A version that a pinned key has vouched for."""

    version: int
    digest: bytes
    key_ids: frozenset[bytes]
    """Of the pinned keys that signed it."""


class TrustMemory(Protocol):
    """Keeps one `Believed`; on a device that trains, for ever."""

    def trusted_version(self) -> TrustedVersion | None: ...

    def save_trusted_version(self, believed: TrustedVersion) -> None: ...


class VolatileTrustMemory:
    """For who starts anew each time: an evaluator, an export."""

    def __init__(self) -> None:
        self._believed: TrustedVersion | None = None

    def trusted_version(self) -> TrustedVersion | None:
        return self._believed

    def save_trusted_version(self, believed: TrustedVersion) -> None:
        self._believed = believed


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
        """`keys` are those pinned, one or more; `unix` is the time in Unix seconds."""
        assert keys, "without keys nothing is ever believed"
        self._keys = tuple(keys)
        self._task = task
        self._memory = memory
        self._unix = unix
        self._clock_skew_seconds = clock_skew_seconds
        known = memory.trusted_version()
        self._known = known if known is not None and known.key_ids & self.key_ids else None

    @property
    def key_ids(self) -> frozenset[bytes]:
        """Of the pinned keys."""
        return frozenset(key.key_id for key in self._keys)

    def read(self, payload: bytes) -> Manifest:
        """The manifest in `payload`, which may be used; that it was seen is remembered before this returns.

        Raises:
            NotTrusted: it is not to be used; one line says why.
            DecodeError: it is no manifest.
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
        believed = TrustedVersion(manifest.version, manifest.digest, key_ids)
        if believed != known:
            self._memory.save_trusted_version(believed)
            self._known = believed
        return manifest

    def _check_expiry(self, manifest: Manifest) -> None:
        if manifest.expires_at is None:
            return
        late_seconds = self._unix() - manifest.expires_at
        if late_seconds > self._clock_skew_seconds:
            raise NotTrusted(
                f"version {manifest.version} expired {late_seconds:.0f} s ago; is the aggregator running, and this "
                "clock right?"
            )


def _remedy(version: int) -> str:
    return (
        "if the aggregator goes on with an older or a new ledger, its operator moves that above it: asyncfedkd "
        f"aggregator move-forward --version {version + 1}"
    )


def refusal(error: DecodeError) -> str:
    """What is told of a manifest that is not used; the model that is held stays."""
    if isinstance(error, NotTrusted):
        return f"a manifest is refused: {error}"
    return f"a manifest could not be read: {error}"
