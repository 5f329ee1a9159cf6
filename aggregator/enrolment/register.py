"""What an authority remembers: everything it ever issued. No secrets stand here."""

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
    """None: a password, which holds until it is revoked."""
    revoked_at: datetime | None = None

    def holds(self, now: datetime) -> bool:
        """Whether somebody can still connect with it."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)

    def state(self, now: datetime) -> str:
        """For a person."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if self.holds(now) else "expired"


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, as it stands in `issued.json`."""

    issued: tuple[Issued, ...] = ()
    list_number: int = 0
    """Of the newest revocation list; each has a higher one."""
    list_days: int | None = None
    """How long a revocation list holds; None: as long as the authority."""

    def add(self, one: Issued) -> "Register":
        return msgspec.structs.replace(self, issued=(*self.issued, one))

    def holding(self, name: str, now: datetime) -> list[Issued]:
        """What this name can still connect with."""
        return [one for one in self.issued if one.name == name and one.holds(now)]

    def revoke(self, name: str, now: datetime, *, kind: str | None = None) -> "Register":
        """Without anything that this name could connect with, or without such of one kind. Twice is once.

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
        """Certificates that end soon and have no successor."""
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
