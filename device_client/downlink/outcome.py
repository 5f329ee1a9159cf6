"""What becomes of a message from the aggregator: a new model, a rejection, or nothing to report."""

from dataclasses import dataclass

from wire_contract.messages import Manifest
from wire_contract.publication.manifest import PublishedVersion


@dataclass(frozen=True)
class NewModel:
    """A version that is complete and verified."""

    published: PublishedVersion
    manifest: Manifest
    """With the model inline, however it travelled, so that it is all one needs to restore the model."""


@dataclass(frozen=True)
class Rejected:
    """Some input could not be used; the held model stays."""

    reason: str
    """One line for a person."""


Outcome = NewModel | Rejected | None
"""None: nothing to report (an old version, or a part of an incomplete one)."""
