"""The answer to a device, made of the verdict on its update."""

import hashlib

from msgspec import structs

from aggregator.admission import Duplicate, Merge, Refuse, Verdict
from wire_contract.message_fields import PAYLOAD_DIGEST_BYTES
from wire_contract.messages import Receipt, Update


def receipt_for(verdict: Verdict, *, version: int, update: Update | None, payload: bytes) -> Receipt:
    """The answer to the device; an update that could not be decoded is identified by the digest of its bytes."""
    receipt = _outcome(verdict, version)
    if update is None:
        return structs.replace(receipt, payload_digest=hashlib.sha256(payload).digest()[:PAYLOAD_DIGEST_BYTES])
    return structs.replace(receipt, incarnation=update.incarnation, sequence=update.sequence)


def _outcome(verdict: Verdict, version: int) -> Receipt:
    match verdict:
        case Merge(weight, staleness, _, scale, _, statistics_scale):
            scales = {"scaled by": scale, "statistics scaled by": statistics_scale}
            scaled = [f"{what} {factor:.3g}" for what, factor in scales.items() if factor < 1.0]
            detail = f"{', '.join(scaled)}: larger than what devices usually send" if scaled else ""
            return Receipt(outcome="merged", version=version, weight=weight, staleness=staleness, detail=detail)
        case Duplicate():
            return Receipt(outcome="duplicate", version=version)
        case Refuse(reason, detail):
            return Receipt(outcome="refused", version=version, reason=reason, detail=detail)
