"""The enrolment commands. They print names of files, never their content."""

import sys
from datetime import UTC, datetime

import msgspec

from aggregator.enrolment.authority import Authority, begin
from aggregator.enrolment.roles import users_of
from aggregator.enrolment.settings import (
    AuthoritySettings,
    EnrolledSettings,
    EnrolSettings,
    NewAuthoritySettings,
    RenewListSettings,
    RevokeSettings,
)

RELOAD = "tell the broker: kill -HUP its process, or: docker compose kill -s HUP broker"


def _now() -> datetime:
    return datetime.now(UTC)


def carry_out(settings: AuthoritySettings) -> None:
    """Runs one of the commands.

    Raises:
        EnrolmentError: it cannot be done; nothing half-made is in use.
    """
    if isinstance(settings, NewAuthoritySettings):
        begin(settings.authority, name=settings.name, days=settings.days, now=_now)
        print(f"authority in {settings.authority}; its broker/ is for the broker, and nobody else needs its ca.key")
        return
    with Authority(settings.authority, now=_now) as authority:
        match settings:
            case EnrolSettings():
                _enrol(authority, settings)
            case RevokeSettings():
                _revoke(authority, settings.device)
            case RenewListSettings():
                until = authority.renew_list(days=settings.days)
                print(f"{authority.broker_folder / 'crl.pem'} holds until {until:%Y-%m-%d}; {RELOAD}")
            case EnrolledSettings():
                _list(authority, as_json=settings.json_output)
        for line in authority.warnings():
            print(f"aggregator: warning: {line}", file=sys.stderr)


def _enrol(authority: Authority, settings: EnrolSettings) -> None:
    out = settings.out
    if settings.role == "broker" and "out" not in settings.model_fields_set:
        out = authority.broker_folder
    listed = frozenset[str]() if settings.access_list is None else users_of(settings.access_list)
    if settings.password_entry:
        made = authority.enrol_password(settings.device, settings.role, out=out, listed=listed, renew=settings.renew)
        print(f"{settings.device}: password in {made.files[0]}, its entry in {authority.broker_folder / 'passwords'}")
        print(RELOAD)
        return
    made = authority.enrol(
        settings.device,
        settings.role,
        out=out,
        days=settings.days,
        hosts=settings.host,
        listed=listed,
        renew=settings.renew,
    )
    key, certificate, authority_file = made.files
    print(f"{settings.device}: valid until {made.issued.expires_at:%Y-%m-%d}")
    if settings.role == "broker":
        print(f"{key} and {certificate} are where the broker's configuration looks for broker.key and broker.pem")
    else:
        print(f"--tls-ca {authority_file} --tls-certificate {certificate} --tls-key {key}")


def _revoke(authority: Authority, name: str) -> None:
    taken = authority.revoke(name)
    print(f"{name}: {len(taken)} revoked now; {authority.broker_folder / 'crl.pem'} says so; {RELOAD}")
    print("a connection that stands goes on until it ends: restart the broker to end it now")


def _list(authority: Authority, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(authority.register.issued).decode())
        return
    now = authority.moment
    for one in authority.register.issued:
        until = f"until {one.expires_at:%Y-%m-%d}" if one.expires_at else ""
        print(f"{one.name:<24} {one.role:<10} {one.kind:<11} {one.state(now):<7} {until:<16} {one.serial}".rstrip())
