"""An authority's register of everything it has issued; it contains no secrets."""

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from aggregator.enrolment.errors import EnrolmentError
from aggregator.enrolment.roles import Role


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate or password."""

    kind: Literal["certificate", "password"]
    name: str
    role: Role
    serial: str = ""
    """Hexadecimal; empty for a password."""
    issued_at: datetime
    expires_at: datetime | None = None
    """None: a password, which is valid until it is revoked."""
    revoked_at: datetime | None = None

    def holds(self, now: datetime) -> bool:
        """Whether it can still be used to connect."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)

    def state(self, now: datetime) -> str:
        """Its state, as shown to the operator."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if self.holds(now) else "expired"


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """The register, as stored in `issued.json`."""

    issued: tuple[Issued, ...] = ()
    list_number: int = 0
    """Number of the newest revocation list; numbers increase."""
    list_days: int | None = None
    """Validity of a revocation list; None: as long as the authority."""

    def add(self, one: Issued) -> "Register":
        return msgspec.structs.replace(self, issued=(*self.issued, one))

    def holding(self, name: str, now: datetime) -> list[Issued]:
        """Credentials that this name can still connect with."""
        return [one for one in self.issued if one.name == name and one.holds(now)]

    def revoke(self, name: str, now: datetime, *, kind: str | None = None) -> "Register":
        """The register with all valid credentials of this name revoked, or those of one kind. Idempotent.

        Raises:
            EnrolmentError: the name was never enrolled.
        """
        if not any(one.name == name for one in self.issued):
            raise EnrolmentError(f"device {name!r}: was never enrolled here; see: asyncfedkd aggregator enrolled")
        issued = tuple(
            msgspec.structs.replace(one, revoked_at=now)
            if one.name == name and one.holds(now) and kind in {None, one.kind}
            else one
            for one in self.issued
        )
        return msgspec.structs.replace(self, issued=issued)

    def ending(self, now: datetime, within: timedelta) -> list[Issued]:
        """Certificates that expire soon and have not been renewed."""
        return [
            one
            for one in self.issued
            if one.holds(now)
            and one.expires_at is not None
            and one.expires_at - now < within
            and not any(
                later.expires_at is not None and later.expires_at > one.expires_at
                for later in self.holding(one.name, now)
            )
        ]


def encode(register: Register) -> bytes:
    return msgspec.json.format(msgspec.json.encode(register), indent=1) + b"\n"


def decode(data: bytes) -> Register:
    """Raises:
    ValueError: these bytes are no register.
    """
    return msgspec.json.decode(data, type=Register)
