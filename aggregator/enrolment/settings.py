"""Settings of the enrolment commands."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from aggregator.enrolment.roles import Role
from wire_contract.program.command_settings import CommandSettings
from wire_contract.settings import Names

DAYS = 365
"""Chosen: a year bounds how long a lost and unrevoked key is of use, at the price of a yearly renewal of each
device."""


class AuthoritySettings(CommandSettings):
    """Settings that all of them have."""

    authority: Path = Field(Path("authority"), description="folder of the certificate authority; keep it private")


class NewAuthoritySettings(AuthoritySettings):
    """Creates a certificate authority; run it once."""

    name: str = Field("asyncfedkd authority", min_length=1, max_length=64, description="its name in certificates")
    days: int = Field(
        3_650, ge=1, le=36_500, description="validity, days; no certificate that it signs is valid longer"
    )
    """Ten years, ten times a certificate's: a new authority has to reach every device."""


class EnrolSettings(AuthoritySettings):
    """Issues a key and certificate, or a password, to one client of the broker or to the broker."""

    only_flags = ("password",)
    """Other programs read a secret from FEDKD_PASSWORD; here the flag is a switch."""

    device: str = Field(description="name; a device's is its device id")
    role: Role = Field("device", description="aggregator, viewer and evaluator go by these names, or aggregator-1 …")
    out: Path = Field(
        Path("enrolled"), description="folder for key and certificate; the broker's go to AUTHORITY/broker unless given"
    )
    days: int = Field(DAYS, ge=1, le=36_500, description="validity of the certificate, days")
    host: Names = Field((), description="host name or address of a broker; repeat for more")
    password_entry: bool = Field(
        False,
        alias="password",
        description="a password instead of a certificate, for clients that cannot use one (browsers)",
    )
    access_list: Path | None = Field(
        None,
        description="the broker's mosquitto.acl; needed for viewer-4, aggregator-4 … and above, which it must list",
    )
    renew: bool = Field(
        False, description="issue another one to a name that has one; the old certificate stays valid until it expires"
    )


class RevokeSettings(AuthoritySettings):
    """Revokes all certificates and the password of a name."""

    device: str = Field(description="name, as it was enrolled")


class RenewListSettings(AuthoritySettings):
    """Renews the revocation list; with an expired list, a broker refuses all clients."""

    days: int | None = Field(None, ge=1, le=36_500, description="validity, days; default: as long as the authority")


class EnrolledSettings(AuthoritySettings):
    """Lists what was issued, and what expires soon."""

    json_output: bool = Field(False, alias="json", description="print JSON for programs")


COMMANDS: Mapping[str, type[AuthoritySettings]] = {
    "new-authority": NewAuthoritySettings,
    "enrol": EnrolSettings,
    "revoke": RevokeSettings,
    "renew-crl": RenewListSettings,
    "enrolled": EnrolledSettings,
}
