"""The flags of the enrolment commands."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from aggregator.enrolment.roles import Role
from wire_contract.program.command_settings import CommandSettings
from wire_contract.settings import Names

DAYS = 365


class AuthoritySettings(CommandSettings):
    """What all of them need."""

    authority: Path = Field(Path("authority"), description="folder of the certificate authority; keep it to yourself")


class NewAuthoritySettings(AuthoritySettings):
    """Makes a certificate authority of your own; do this once."""

    name: str = Field("asyncfedkd authority", min_length=1, max_length=64, description="what certificates call it")
    days: int = Field(3_650, ge=1, le=36_500, description="how long it lasts, days; all it signs ends with it")


class EnrolSettings(AuthoritySettings):
    """Makes a key and certificate, or a password, for one client of the broker or for the broker."""

    only_flags = ("password",)

    device: str = Field(description="name; a device's is its device id")
    role: Role = Field("device", description="aggregator, viewer and evaluator go by these names, or aggregator-1 …")
    out: Path = Field(
        Path("enrolled"), description="folder for key and certificate; the broker's go to AUTHORITY/broker unless given"
    )
    days: int = Field(DAYS, ge=1, le=36_500, description="how long the certificate lasts, days")
    host: Names = Field((), description="where a broker is reached, name or address; repeat for more")
    password_entry: bool = Field(
        False,
        alias="password",
        description="a password instead of a certificate, for clients that cannot show one (browsers)",
    )
    access_list: Path | None = Field(
        None,
        description="the broker's mosquitto.acl; needed for viewer-4, aggregator-4 … and above, which it must list",
    )
    renew: bool = Field(False, description="even though the name has one; the old certificate holds until its end")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """FEDKD_PASSWORD is a secret that other programs read, and no flag of this command."""
        _ = env_settings, dotenv_settings, file_secret_settings
        return init_settings, _WithoutPassword(settings_cls)


class _WithoutPassword(EnvSettingsSource):
    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if name not in EnrolSettings.only_flags}


class RevokeSettings(AuthoritySettings):
    """Takes a name's certificates and password away."""

    device: str = Field(description="name, as it was enrolled")


class RenewListSettings(AuthoritySettings):
    """Writes the revocation list anew; a broker refuses everybody when its list has ended."""

    days: int | None = Field(
        None, ge=1, le=36_500, description="how long it holds, days; else as long as the authority"
    )


class EnrolledSettings(AuthoritySettings):
    """Lists what was issued, and what ends soon."""

    json_output: bool = Field(False, alias="json", description="print JSON for programs")


COMMANDS: Mapping[str, type[AuthoritySettings]] = {
    "new-authority": NewAuthoritySettings,
    "enrol": EnrolSettings,
    "revoke": RevokeSettings,
    "renew-crl": RenewListSettings,
    "enrolled": EnrolledSettings,
}
