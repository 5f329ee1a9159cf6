"""Creates what the services need before they start: certificate authority, certificates, signing key, passwords.

It creates what is missing and changes nothing that exists, so it runs before every start. To replace something, move it
away first. It uses the commands of `python -m aggregator` in one process, because each start of Python takes a second.

    SECRETS       the folder; only its owner can read it
    BROKER_HOSTS  names and addresses under which clients reach the broker, separated by spaces
    DEVICES       names of the devices of the fleet, separated by spaces
"""

import os
import secrets
import sys
from pathlib import Path

from aggregator.__main__ import main as aggregator
from wire_contract.files.atomic_write import write_atomically

FOLDER = Path(os.environ["SECRETS"])
AUTHORITY = FOLDER / "authority"
CLIENTS = FOLDER / "clients"
SIGNING_KEY = FOLDER / "signing" / "models.key"
PASSWORDS = FOLDER / "passwords"

CLIENT_ROLES = {
    "aggregator": "aggregator",
    "aggregator-3": "aggregator",  # its telemetry connection, which needs a name of its own
    "evaluator": "evaluator",
    "viewer-1": "viewer",  # the broker's health check
    **dict.fromkeys(os.environ["DEVICES"].split(), "device"),
}
FIRST_PASSWORDS = ("influxdb-admin", "influxdb-admin-token", "grafana-admin")


def unless_there(made: Path, *command: str) -> None:
    """Runs a command of the aggregator unless the file it creates exists; exits with its code if it fails."""
    if not made.exists() and (code := aggregator(command)) != 0:
        sys.exit(code)


def make_password(path: Path) -> None:
    """Writes a random password atomically, unless the file exists."""
    if not path.exists():
        write_atomically(path, secrets.token_urlsafe(32).encode() + b"\n", sync="nothing")


def main() -> None:
    os.umask(0o077)
    for folder in (CLIENTS, SIGNING_KEY.parent, PASSWORDS):
        folder.mkdir(parents=True, exist_ok=True)
    authority = ("--authority", str(AUTHORITY))
    unless_there(AUTHORITY / "ca.key", "new-authority", *authority)
    hosts = [word for host in os.environ["BROKER_HOSTS"].split() for word in ("--host", host)]
    # --renew: a certificate that was moved away is to be replaced under the same name.
    enrol = ("enrol", *authority, "--renew")
    unless_there(AUTHORITY / "broker" / "broker.pem", *enrol, "--role", "broker", "--device", "broker", *hosts)
    enrol = (*enrol, "--out", str(CLIENTS))
    for name, role in CLIENT_ROLES.items():
        unless_there(CLIENTS / f"{name}.pem", *enrol, "--role", role, "--device", name)
    # People with a browser use a password instead of a certificate.
    unless_there(CLIENTS / "viewer.password", *enrol, "--role", "viewer", "--device", "viewer", "--password")
    unless_there(SIGNING_KEY, "signing-key", "--out", str(SIGNING_KEY))
    for name in FIRST_PASSWORDS:
        make_password(PASSWORDS / name)
    print("all secrets are ready")


if __name__ == "__main__":
    main()
