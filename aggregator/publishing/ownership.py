"""Whose model line is on the broker: classifies the manifest that is retained on the model topic. No I/O.

An aggregator publishes nothing before this check. Otherwise a new, lost or older ledger, or a second aggregator with a
ledger of its own, would replace a line that devices follow, and all their updates would be refused.

    no manifest                                            → publish
    a version that the ledger has, with the same digest    → our line: publish what is missing
    below move-forward's version, and published earlier    → our line: publish above it
    below the ledger's oldest version, published earlier   → our line: publish above it
    any other readable manifest                            → another line: refuse, unless told to replace it
    written by a newer release                             → refuse, unless told to replace it
    damaged, or of another task                            → unusable for every device: replace it
    not signed by one of our keys, if there are any        → anybody who can write the topic could stop us: replace it
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from aggregator.ledger.records import Mark
from wire_contract.errors import ContractError, DecodeError, UnknownSchema
from wire_contract.limits import MOMENT_MAX
from wire_contract.messages import Manifest
from wire_contract.program.plain_text import utc_time
from wire_contract.signatures.envelope import unwrap
from wire_contract.signatures.signing import NotTrusted, PublicKey, verified_signers

Whose = Literal["ours", "passed", "forgotten", "another line", "a newer program", "unreadable", "untrusted"]

MOVED_VERSION_MAX = 2**52
"""Highest version for `move-forward`: version numbers on the wire end at 2^53, and the line must be able to
continue."""

STANDS_IN_THE_WAY: frozenset[Whose] = frozenset({"another line", "a newer program"})
"""What an aggregator does not replace without --replace-line."""


class LineRefused(ContractError):
    """Another model line is on the broker; nothing was changed. The message lists the remedies."""


class Marks(Protocol):
    """The part of the ledger that is used here."""

    def mark_from(self, version: int) -> Mark | None:
        """The oldest version with at least this number; None if there is none."""

    def moved_forward(self) -> Mark | None:
        """The newest version that skipped numbers after its parent (`move-forward`); None if there is none."""


@dataclass(frozen=True)
class RetainedManifest:
    """A retained manifest and its classification."""

    whose: Whose
    manifest: Manifest | None = None
    """None: it could not be decoded, or is not trusted."""
    reason: str = ""
    """Why it was not accepted as ours, in one line."""


def identify(payload: bytes, *, task: str, marks: Marks, keys: Sequence[PublicKey] = ()) -> RetainedManifest:
    """Classifies the manifest in `payload`.

    Args:
        payload: retained on the model topic; not empty.
        task: of this line.
        marks: versions in the ledger.
        keys: public halves of this aggregator's signing keys; if there are any, unsigned manifests are not trusted.
    """
    try:
        message = unwrap(payload, Manifest)
        if keys:
            verified_signers(message, keys)
        manifest = message.open()
    except NotTrusted as error:
        return RetainedManifest("untrusted", reason=str(error))
    except UnknownSchema as error:
        return RetainedManifest("untrusted" if keys else "a newer program", reason=str(error))
    except DecodeError as error:
        return RetainedManifest("unreadable", reason=str(error))
    if manifest.task != task:
        return RetainedManifest("unreadable", reason=f"it is of task {manifest.task!r}")
    return RetainedManifest(_whose(manifest, marks), manifest)


def _whose(manifest: Manifest, marks: Marks) -> Whose:
    mark = marks.mark_from(manifest.version)
    if mark is not None and (mark.version, mark.digest) == (manifest.version, manifest.digest):
        # Two ledgers that started from the same file have the same version 0, but different publication times.
        begun_elsewhere = manifest.version == 0 and mark.committed_at != manifest.published_at
        if not begun_elsewhere:
            return "ours"
    moved = marks.moved_forward()
    # A lower number alone proves nothing: a healthy younger line has one, too, but with a later publication time.
    if moved is not None and manifest.version < moved.version and manifest.published_at <= moved.committed_at:
        return "passed"
    if mark is not None and mark.version > manifest.version and manifest.published_at <= mark.committed_at:
        return "forgotten"
    return "another line"


def outranks(rival: Manifest, *, version: int, digest: bytes, published_at: float) -> bool:
    """Whether devices that accepted `rival` would keep it over our version with these values.

    If so, ours has to be published again with a later publication time.
    """
    if (rival.version, rival.digest) == (version, digest):
        return False
    return rival.version >= version or rival.published_at >= published_at


def moment_above(moment: float, *, now: float) -> float:
    """A publication time that devices consider later than `moment`, whatever clock that came from (Unix seconds)."""
    return min(max(now, moment + 1.0), float(MOMENT_MAX))


def refusal(found: RetainedManifest, *, task: str, topic: str, ledger: Path, version: int) -> LineRefused:
    """The message for an operator whose aggregator, at `version`, cannot start because of `found`."""
    if found.manifest is None:
        return LineRefused(
            f"task {task}: a newer program has published on {topic} ({found.reason}); nothing was changed there. "
            "Update this program, or give --replace-line to begin anew over it"
        )
    manifest = found.manifest
    return LineRefused(
        f"task {task}: another line stands on {topic}, at version {manifest.version}, published at "
        f"{utc_time(manifest.published_at)}; ledger {ledger}, at version {version}, does not know it. Nothing was "
        f"changed (is another aggregator at work?). {_way_above(manifest.version, ledger, version)}"
        "To begin anew over it, so that devices drop that line: --replace-line"
    )


def _way_above(found: int, ledger: Path, version: int) -> str:
    number = way_forward(found, version)
    if number > MOVED_VERSION_MAX:
        return ""  # no aggregator makes that many versions: a forged number, meant to exhaust ours
    return (
        "To go on above it: restore its newest ledger, or take this one: asyncfedkd aggregator move-forward "
        f"--ledger {ledger} --version {number}. "
    )


def way_forward(found: int, version: int) -> int:
    """A number for `move-forward`, above version `found` on the broker, that skips at least one of ours."""
    return found + 1 if found > version else version + 2
