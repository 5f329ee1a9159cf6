"""The roles at a broker, and which names are theirs.

The broker knows a client by its name alone (the common name of its certificate, or its user name), and its access list
gives the names `aggregator…` and `viewer…` their rights. So no device may ever have such a name: this file is the
other half of the access list.
"""

import re
from typing import Literal, get_args

from aggregator.enrolment.errors import EnrolmentError
from wire_contract.errors import TopicError
from wire_contract.topics import check_name

Role = Literal["device", "aggregator", "viewer", "broker"]

ROLES: tuple[Role, ...] = get_args(Role)
_NAMED_AFTER_ROLE = tuple(role for role in ROLES if role != "device")
_RESERVED = re.compile(rf"({'|'.join(_NAMED_AFTER_ROLE)})(-.*)?", re.IGNORECASE)
_NUMBERED = re.compile(rf"({'|'.join(_NAMED_AFTER_ROLE)})(-[1-9][0-9]{{0,3}})?")


def check_role_name(name: str, role: Role) -> str:
    """`name`, if a client of this role may have it.

    Raises:
        EnrolmentError: it cannot stand in a topic, or it belongs to another role.
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
    if numbered is None or numbered[1] != role:
        raise EnrolmentError(
            f"name {name!r}: the role {role} goes by {role!r}, or {role}-1, {role}-2 … for more of them"
        )
    return name
