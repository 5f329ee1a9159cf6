"""Roles at the broker, and the names that belong to them.

A broker identifies a client by its name only (the common name of its certificate, or its user name), and its access
list gives rights to the names `aggregator…`, `viewer…` and `evaluator…`. So no device may ever have such a name: this
module complements the access list. Mosquitto's list needs one block per such name, so a name without a block is not
issued: mosquitto would treat it as a device.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal, get_args

from aggregator.enrolment.errors import EnrolmentError
from wire_contract.errors import TopicError
from wire_contract.topics import check_name

Role = Literal["device", "aggregator", "viewer", "evaluator", "broker"]

ROLES: tuple[Role, ...] = get_args(Role)
NUMBERED_MAX = 3
"""`broker_config/mosquitto.acl` has blocks for ROLE and ROLE-1 to ROLE-3 only."""

_NAMED_AFTER_ROLE = tuple(role for role in ROLES if role != "device")
_RESERVED = re.compile(rf"({'|'.join(_NAMED_AFTER_ROLE)})(-.*)?|evaluator\..*", re.IGNORECASE)
_NUMBERED = re.compile(rf"({'|'.join(_NAMED_AFTER_ROLE)})(?:-([1-9][0-9]{{0,3}}))?(\..+)?")
_EVALUATOR = re.compile(r"evaluator(-[1-9][0-9]{0,3})?(\..+)?")
"""The part after a dot is the cohort that an evaluator measures (see docs/telemetry.md)."""


def is_evaluator(name: str) -> bool:
    """Whether this name belongs to an evaluator; enrolment gives such names to evaluators only."""
    return _EVALUATOR.fullmatch(name) is not None


def users_of(access_list: Path) -> frozenset[str]:
    """Names with a block of their own in a mosquitto access list.

    Raises:
        EnrolmentError: the file cannot be read.
    """
    try:
        lines = access_list.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise EnrolmentError(f"--access-list {access_list}: {reason}") from None
    return frozenset(line.removeprefix("user ").strip() for line in lines if line.startswith("user "))


def check_role_name(name: str, role: Role, *, listed: Collection[str] = ()) -> str:
    """Returns `name` if a client with this role may have it.

    Args:
        name: of the client.
        role: its role.
        listed: names known to have a block in the broker's access list, beyond those that the shipped list has.

    Raises:
        EnrolmentError: it cannot stand in a topic, belongs to another role, or has no block in the access list.
    """
    try:
        check_name(name, "device")
    except TopicError as error:
        raise EnrolmentError(str(error)) from None
    if role == "device":
        if _RESERVED.fullmatch(name):
            raise EnrolmentError(f"device {name!r}: this name has rights of its own at the broker; choose another")
        return name
    numbered = _NUMBERED.fullmatch(name)
    if numbered is None or numbered[1] != role or (numbered[3] and role != "evaluator"):
        raise EnrolmentError(
            f"name {name!r}: the role {role} goes by {role!r}, or {role}-1, {role}-2 … for more of them"
        )
    shipped = role == "broker" or (int(numbered[2] or 0) <= NUMBERED_MAX and not numbered[3])
    if not shipped and name not in listed:
        raise EnrolmentError(
            f"name {name!r}: the shipped access list knows only {role} and {role}-1 to {role}-{NUMBERED_MAX}, and "
            "mosquitto would treat this name as a device; copy a block for it in mosquitto.acl and give that file as "
            "--access-list"
        )
    return name
