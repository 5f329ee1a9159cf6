"""The folder of a local certificate authority.

    DIR/ca.key          signs; never leaves this folder, and no broker needs it
    DIR/issued.json     register of what was issued, to whom, and what was revoked
    DIR/broker/         everything that a broker needs; mount only this folder there
        ca.pem  crl.pem  passwords  nats-users.conf  broker.pem  broker.key

A crash leaves at worst an entry in `issued.json` for a certificate that was never written: the entry is written before
the certificate, and a revocation before the list.
"""

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from aggregator.enrolment import certificates, nats_users, passwords, register
from aggregator.enrolment.certificates import Revoked, Signer
from aggregator.enrolment.durable_files import make, replace
from aggregator.enrolment.errors import EnrolmentError
from aggregator.enrolment.register import Issued, Register
from aggregator.enrolment.roles import Role, check_role_name
from wire_contract.files.file_lock import FileLock, FileLocked
from wire_contract.files.permissions import PRIVATE, PUBLIC
from wire_contract.topics import DEFAULT_ROOT

BROKER_FOLDER = "broker"
WARNING_DAYS = 30
"""Certificates and lists that expire within this many days are reported. Chosen: a month leaves time to renew by hand;
a longer warning would be ignored."""

Now = Callable[[], datetime]


@dataclass(frozen=True)
class Enrolled:
    """The files issued for one name."""

    issued: Issued
    files: tuple[Path, ...]


def begin(folder: Path, *, name: str, days: int, now: Now) -> None:
    """Creates an authority.

    Raises:
        EnrolmentError: there is one, or the folder cannot be written.
    """
    try:
        (folder / BROKER_FOLDER).mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)  # lets a broker that is not root reach its own folder
    except OSError as error:
        raise EnrolmentError(f"authority {folder}: {error.strerror}") from None
    moment = _second(now())
    key = certificates.new_key()
    signer = certificates.found_authority(
        key, name=name, serial=certificates.new_serial(), now=moment, until=moment + timedelta(days=days)
    )
    if (folder / "ca.key").exists():
        raise EnrolmentError(f"authority {folder}: is there already; a new one would lock out everything it signed")
    make(folder / "ca.key", certificates.key_pem(key), PRIVATE)
    replace(folder / BROKER_FOLDER / "ca.pem", certificates.certificate_pem(signer.certificate), PUBLIC)
    replace(folder / BROKER_FOLDER / "passwords", b"", PRIVATE)
    replace(folder / "issued.json", register.encode(Register()), PRIVATE)
    with Authority(folder, now=now) as authority:
        authority.renew_list(days=None)


class Authority:
    """An authority, with its folder locked while it is in use."""

    def __init__(self, folder: Path, *, now: Now) -> None:
        """Raises:
        EnrolmentError: there is none, or it cannot be read, or another program is using it.
        """
        self.folder = folder
        self.broker_folder = folder / BROKER_FOLDER
        self._now = now
        if not (folder / "ca.key").is_file():
            raise EnrolmentError(
                f"authority {folder}: there is none; make one with: asyncfedkd aggregator new-authority --authority DIR"
            )
        self._lock = _lock(folder)
        try:
            self.register = self._read_register()
            self.signer = self._read_signer()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._lock.release()

    @property
    def moment(self) -> datetime:
        return _second(self._now())

    def enrol(
        self,
        name: str,
        role: Role,
        *,
        out: Path,
        days: int,
        hosts: Sequence[str] = (),
        listed: Collection[str] = (),
        renew: bool = False,
    ) -> Enrolled:
        """Writes a key and a certificate into `out`, with the authority's own certificate.

        Raises:
            EnrolmentError: the name is not for this role or has a certificate, a file is in the way, or a host is none.
        """
        check_role_name(name, role, listed=listed)
        if (role == "broker") != bool(hosts):
            raise EnrolmentError(
                "host: a broker's certificate needs --host, as its clients write it; no other takes one"
            )
        now = self.moment
        if self.signer.until <= now:
            raise EnrolmentError(f"authority {self.folder}: ended at {self.signer.until:%Y-%m-%d}; begin a new one")
        self._refuse_second(name, "certificate", now, renew=renew)
        files = tuple(out / f"{name}{suffix}" for suffix in (".key", ".pem"))
        _refuse_overwriting(out, files)
        key, serial = certificates.new_key(), certificates.new_serial()
        until = min(now + timedelta(days=days), self.signer.until)
        certificate = certificates.issue(
            self.signer, key.public_key(), name=name, role=role, serial=serial, now=now, until=until, hosts=hosts
        )
        issued = Issued(kind="certificate", name=name, role=role, serial=f"{serial:x}", issued_at=now, expires_at=until)
        authority_file = self._beside(out)
        self._remember(self.register.add(issued))
        for file, data, mode in (
            (files[0], certificates.key_pem(key), PRIVATE),
            (files[1], certificates.certificate_pem(certificate), PUBLIC),
        ):
            make(file, data, mode)
        self._write_list(now)
        return Enrolled(issued, (*files, authority_file))

    def enrol_password(
        self, name: str, role: Role, *, out: Path, listed: Collection[str] = (), renew: bool = False
    ) -> Enrolled:
        """Writes a password into a file in `out`, and its hash into the broker's password file.

        Raises:
            EnrolmentError: the name is not for this role or has a password, or a file is in the way.
        """
        check_role_name(name, role, listed=listed)
        if role not in {"device", "viewer", "evaluator"}:
            raise EnrolmentError(f"password: the role {role} takes a certificate; who knows a password can pass it on")
        now = self.moment
        self._refuse_second(name, "password", now, renew=renew)
        file = out / f"{name}.password"
        _refuse_overwriting(out, (file,))
        password = secrets.token_urlsafe(passwords.PASSWORD_BYTES)
        line = passwords.entry(name, password, salt=secrets.token_bytes(passwords.SALT_BYTES))
        issued = Issued(kind="password", name=name, role=role, issued_at=now)
        without_old = self.register
        if any(one.kind == "password" for one in self.register.holding(name, now)):
            without_old = self.register.revoke(name, now, kind="password")
        authority_file = self._beside(out)
        self._remember(without_old.add(issued))
        make(file, password.encode() + b"\n", PRIVATE)
        self._change_passwords(lambda text: passwords.with_entry(text, line))
        return Enrolled(issued, (file, authority_file))

    def revoke(self, name: str) -> list[Issued]:
        """Revokes all certificates and the password of a name, and returns them. Repeating it completes what a
        crash left half done.

        Raises:
            EnrolmentError: the name was never enrolled.
        """
        now = self.moment
        taken = self.register.holding(name, now)
        self._remember(self.register.revoke(name, now))
        self._change_passwords(lambda text: passwords.without_entry(text, name))
        self._write_list(now)
        return taken

    def renew_list(self, *, days: int | None) -> datetime:
        """Renews the revocation list for `days` (None: as long as the authority is valid); returns its expiry."""
        self.register = msgspec.structs.replace(self.register, list_days=days)
        return self._write_list(self.moment)

    def warnings(self) -> list[str]:
        """Warnings about what expires soon, one line each."""
        now, soon = self.moment, timedelta(days=WARNING_DAYS)
        lines = []
        end = self._list_end()
        if end is None:
            lines.append("the revocation list is missing or damaged, and no broker starts without it: renew-crl")
        elif end - now < soon and end < self.signer.until:
            lines.append(f"the revocation list ends {end:%Y-%m-%d}, and the broker refuses everybody then: renew-crl")
        if self.signer.until - now < soon:
            lines.append(f"the authority ends {self.signer.until:%Y-%m-%d}, and all that it signed with it")
        lines.extend(
            f"the certificate of {one.name} ends {one.expires_at:%Y-%m-%d}: enrol --renew --device {one.name}"
            for one in self.register.ending(now, soon)
        )
        return lines

    def _list_end(self) -> datetime | None:
        try:
            return certificates.list_ends((self.broker_folder / "crl.pem").read_bytes())
        except (OSError, ValueError):
            return None

    def _write_list(self, now: datetime) -> datetime:
        """Writes the revocation list, and for NATS the list of users; returns the list's expiry."""
        days = self.register.list_days
        until = self.signer.until if days is None else min(now + timedelta(days=days), self.signer.until)
        revoked = [
            Revoked(int(one.serial, 16), one.revoked_at)
            for one in self.register.issued
            if one.kind == "certificate" and one.revoked_at is not None
        ]
        self._remember(msgspec.structs.replace(self.register, list_number=self.register.list_number + 1))
        number = self.register.list_number
        crl = certificates.revocation_list(self.signer, revoked, number=number, now=now, until=until)
        replace(self.broker_folder / "crl.pem", certificates.certificate_pem(crl), PUBLIC)
        holders = {one.name: one.role for one in self.register.issued if one.kind == "certificate" and one.holds(now)}
        users = nats_users.users(sorted(holders.items()), root=DEFAULT_ROOT)
        replace(self.broker_folder / "nats-users.conf", users.encode(), PUBLIC)
        return until

    def _remember(self, changed: Register) -> None:
        replace(self.folder / "issued.json", register.encode(changed), PRIVATE)
        self.register = changed

    def _change_passwords(self, change: Callable[[str], str]) -> None:
        path = self.broker_folder / "passwords"
        text = path.read_text() if path.is_file() else ""
        changed = change(text)
        if changed != text:
            replace(path, changed.encode(), PRIVATE)

    def _refuse_second(self, name: str, kind: str, now: datetime, *, renew: bool) -> None:
        if not renew and any(one.kind == kind for one in self.register.holding(name, now)):
            raise EnrolmentError(f"device {name!r}: has a {kind} already; revoke it, or give --renew for one more")

    def _beside(self, out: Path) -> Path:
        """Writes the authority's certificate into `out`; clients need it to verify the broker."""
        path = out / "ca.pem"
        own = certificates.certificate_pem(self.signer.certificate)
        if not path.exists():
            make(path, own, PUBLIC)
        elif path.read_bytes() != own:
            raise EnrolmentError(f"{path}: is of another authority; give another --out")
        return path

    def _read_register(self) -> Register:
        path = self.folder / "issued.json"
        try:
            return register.decode(path.read_bytes())
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise EnrolmentError(
                f"{path}: {error}; bring it back from a copy, it says what must stay revoked"
            ) from None

    def _read_signer(self) -> Signer:
        files = self.broker_folder / "ca.pem", self.folder / "ca.key"
        try:
            return certificates.read_signer(files[0].read_bytes(), files[1].read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise EnrolmentError(f"authority {self.folder}: {files[0].name} or {files[1].name}: {error}") from None


def _second(moment: datetime) -> datetime:
    """X.509 times have whole seconds."""
    return moment.astimezone(UTC).replace(microsecond=0)


def _refuse_overwriting(out: Path, files: Sequence[Path]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnrolmentError(f"{out}: {error.strerror}") from None
    for file in files:
        if file.exists():
            raise EnrolmentError(
                f"{file}: is there already and is never overwritten; move it away or give another --out"
            )


def _lock(folder: Path) -> FileLock:
    try:
        return FileLock(folder / "lock")
    except FileLocked:
        raise EnrolmentError(f"authority {folder}: another program is using it; try again") from None
    except OSError as error:
        raise EnrolmentError(f"authority {folder}: {error.strerror}") from None
