"""What the weights in a safetensors file are for. The role stands in the file's metadata under `role`, and every reader
checks it, so that no file can be given in another's place: above all no teacher where an initial model is wanted, since
an initial model is published to everybody.

Files that were made before there were roles have none. Where a mistake would only end in an error they are still taken;
a line is not begun from one.
"""

from collections.abc import Mapping
from typing import Literal, get_args

Role = Literal["initial-model", "published-model", "teacher", "local-teacher"]

ROLE_KEY = "role"
ROLES: frozenset[str] = frozenset(get_args(Role))
STUDENTS: frozenset[Role] = frozenset({"initial-model", "published-model"})
"""What is, or may be, published."""
TEACHERS: frozenset[Role] = frozenset({"teacher"})
LOCAL_TEACHERS: frozenset[Role] = frozenset({"local-teacher"})

_NAMES: Mapping[str, str] = {
    "initial-model": "an initial model",
    "published-model": "a published model",
    "teacher": "a teacher",
    "local-teacher": "the teacher of one device",
}


def wrong_role(found: str | None, wanted: frozenset[Role]) -> str | None:
    """Why a file with role `found` (None: it has none) cannot be used as one of `wanted`; None where it can."""
    if found is None or found in wanted:
        return None
    expected = " or ".join(_NAMES[role] for role in sorted(wanted))
    return f"holds {_NAMES.get(found, f'a {found!r}')}, not {expected}"
