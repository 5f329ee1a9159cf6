"""Whose line stands on the broker: what an aggregator makes of the manifest that is retained on its model topic. Pure.

An aggregator publishes nothing before it has looked there. A new, lost or older ledger, or a second aggregator with a
ledger of its own, would otherwise replace a line that devices follow, and their updates would be refused from then on.

    nothing there                                     → publish
    a version that the ledger has, by digest          → of this line: publish what is missing
    below a version that the ledger was moved forward to, and published before that  → publish above it
    below the oldest version that the ledger keeps, and published before that        → publish above it
    anything else that can be read                    → another line: refuse, unless told to replace it
    written by a newer program                        → refuse, unless told to replace it
    damaged, or of another task                       → serves nobody: replace it
    not signed by a key of ours, where there are keys → whoever can write the topic must not stop us: replace it
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
"""The highest number for `move-forward`: the wire ends at 2^53, and the line is to go on after it."""

STANDS_IN_THE_WAY: frozenset[Whose] = frozenset({"another line", "a newer program"})
"""What an aggregator does not start over unless it is told to."""


class LineRefused(ContractError):
    """Another line stands on the broker; nothing was changed. The text names the ways out."""


class Marks(Protocol):
    """The ledger, as far as it is asked here."""

    def mark_from(self, version: int) -> Mark | None:
        """The oldest version that is not below `version`; None: all are."""

    def moved_forward(self) -> Mark | None:
        """The newest version that left out numbers after its parent (see `move-forward`); None: there is none."""


@dataclass(frozen=True)
class RetainedManifest:
    """A retained manifest, and whose it is."""

    whose: Whose
    manifest: Manifest | None = None
    """None: it could not be read, or must not be believed."""
    reason: str = ""
    """Why it was not taken for ours; one line for a person."""


def identify(payload: bytes, *, task: str, marks: Marks, keys: Sequence[PublicKey] = ()) -> RetainedManifest:
    """Whose manifest `payload` is.

    Args:
        payload: as it stands on the model topic; not empty.
        task: of this line.
        marks: what the ledger knows of versions.
        keys: the public halves of this aggregator's signing keys; with them, only what they signed is believed.
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
        # Two ledgers that were begun with the same file have the same version 0, but not at the same moment.
        begun_elsewhere = manifest.version == 0 and mark.committed_at != manifest.published_at
        if not begun_elsewhere:
            return "ours"
    moved = marks.moved_forward()
    # A number below ours proves nothing: a healthy younger line has one too. It was published later than ours was.
    if moved is not None and manifest.version < moved.version and manifest.published_at <= moved.committed_at:
        return "passed"
    if mark is not None and mark.version > manifest.version and manifest.published_at <= mark.committed_at:
        return "forgotten"
    return "another line"


def outranks(rival: Manifest, *, version: int, digest: bytes, published_at: float) -> bool:
    """Whether devices that took `rival` would keep it when ours, which the other arguments tell, is announced again as
    it was: then it has to be published anew, later.
    """
    if (rival.version, rival.digest) == (version, digest):
        return False
    return rival.version >= version or rival.published_at >= published_at


def moment_above(moment: float, *, now: float) -> float:
    """A moment of publication that devices take for later than `moment`, by whatever clock that was (Unix seconds)."""
    return min(max(now, moment + 1.0), float(MOMENT_MAX))


def refusal(found: RetainedManifest, *, task: str, topic: str, ledger: Path, version: int) -> LineRefused:
    """What an operator is told who starts an aggregator, at `version`, where something stands in its way."""
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
        return ""  # no aggregator has made so many; whoever wrote it wants us to follow to where numbers end
    return (
        "To go on above it: restore its newest ledger, or take this one: asyncfedkd aggregator move-forward "
        f"--ledger {ledger} --version {number}. "
    )


def way_forward(found: int, version: int) -> int:
    """A number for `move-forward` that is above version `found` on the broker and leaves out at least one of ours."""
    return found + 1 if found > version else version + 2
