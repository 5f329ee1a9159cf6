"""Names that stand for patients, films and files; without the key they cannot be traced back."""

import hashlib
import hmac
from typing import Literal

Kind = Literal["patient", "image", "label"]
KEY_BYTES = 32
_DIGITS = 16


def patient_key(patient: str) -> str:
    """What is compared of a Patient ID: `p 12` and `P  12` are one patient, who must not stand on two sides."""
    return " ".join(patient.split()).casefold()


class Pseudonyms:
    """HMACs under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, kind: Kind, name: str) -> str:
        """Stands for a name; empty stays empty."""
        known = patient_key(name) if kind == "patient" else name
        return self.hmac(f"{kind}\0{known}")[:_DIGITS] if known else ""

    def hmac(self, text: str) -> str:
        """64 digits."""
        return hmac.new(self._key, text.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()
