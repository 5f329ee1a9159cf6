"""What the services need before the first of them starts: authority, certificates, signing key, passwords.

It makes what is missing and touches nothing that is there, so it runs before every start. To have something made anew,
move it away. The commands are those of `python -m aggregator`, in one process, as each start of Python takes a second.

    SECRETS       the folder; only its owner may look in
    BROKER_HOSTS  names and addresses under which clients reach the broker, with spaces between
    DEVICES       names of the devices of the fleet, likewise
"""

import os
import secrets
import sys
from pathlib import Path

from aggregator.__main__ import main as aggregator

FOLDER = Path(os.environ["SECRETS"])
AUTHORITY = FOLDER / "authority"
CLIENTS = FOLDER / "clients"
SIGNING_KEY = FOLDER / "signing" / "models.key"
PASSWORDS = FOLDER / "passwords"

CLIENT_ROLES = {
    "aggregator": "aggregator",
    "aggregator-3": "aggregator",  # its telemetry, which listens to the broker under a name of its own
    "evaluator": "evaluator",
    "viewer-1": "viewer",  # the broker's health check
    **dict.fromkeys(os.environ["DEVICES"].split(), "device"),
}
FIRST_PASSWORDS = ("influxdb-admin", "influxdb-admin-token", "grafana-admin")


def unless_there(made: Path, *command: str) -> None:
    """A command of the aggregator, unless what it makes is there; its one line of complaint ends the program."""
    if not made.exists() and (code := aggregator(command)) != 0:
        sys.exit(code)


def make_password(path: Path) -> None:
    """A random one, whole or not at all."""
    if not path.exists():
        new = path.with_name(path.name + ".new")
        new.write_text(secrets.token_urlsafe(32) + "\n", encoding="ascii")
        new.replace(path)


def main() -> None:
    os.umask(0o077)
    for folder in (CLIENTS, SIGNING_KEY.parent, PASSWORDS):
        folder.mkdir(parents=True, exist_ok=True)
    authority = ("--authority", str(AUTHORITY))
    unless_there(AUTHORITY / "ca.key", "new-authority", *authority)
    hosts = [word for host in os.environ["BROKER_HOSTS"].split() for word in ("--host", host)]
    # --renew: whoever moved a certificate away wants another under the same name.
    enrol = ("enrol", *authority, "--renew")
    unless_there(AUTHORITY / "broker" / "broker.pem", *enrol, "--role", "broker", "--device", "broker", *hosts)
    enrol = (*enrol, "--out", str(CLIENTS))
    for name, role in CLIENT_ROLES.items():
        unless_there(CLIENTS / f"{name}.pem", *enrol, "--role", role, "--device", name)
    # People who look on with a browser have a password instead of a certificate.
    unless_there(CLIENTS / "viewer.password", *enrol, "--role", "viewer", "--device", "viewer", "--password")
    unless_there(SIGNING_KEY, "signing-key", "--out", str(SIGNING_KEY))
    for name in FIRST_PASSWORDS:
        make_password(PASSWORDS / name)
    print("everything is in its place")


if __name__ == "__main__":
    main()
