"""What the weights in a safetensors file are for.

The role is in the file's metadata under `role`, and every reader checks it, so that no file is used in place of
another: above all, no teacher as an initial model, because that is published to everybody.

Files of releases before there were roles have none. They are still accepted where a mistake would only cause an error,
but not as the initial model of a new ledger.
"""

from collections.abc import Mapping
from typing import Literal, get_args

Role = Literal["initial-model", "published-model", "teacher", "local-teacher", "statistics"]

ROLE_KEY = "role"
ROLES: frozenset[str] = frozenset(get_args(Role))
STUDENTS: frozenset[Role] = frozenset({"initial-model", "published-model"})
"""Roles of models that are, or may be, published."""
PUBLISHED: frozenset[Role] = frozenset({"published-model"})
TEACHERS: frozenset[Role] = frozenset({"teacher"})
LOCAL_TEACHERS: frozenset[Role] = frozenset({"local-teacher"})
STATISTICS: frozenset[Role] = frozenset({"statistics"})

_NAMES: Mapping[str, str] = {
    "initial-model": "an initial model",
    "published-model": "a published model",
    "teacher": "a teacher",
    "local-teacher": "the teacher of one device",
    "statistics": "the running statistics of one device",
}


def wrong_role(found: str | None, wanted: frozenset[Role]) -> str | None:
    """Why a file with role `found` (None: without a role) cannot be used as one of `wanted`; None if it can."""
    if found is None or found in wanted:
        return None
    expected = " or ".join(_NAMES[role] for role in sorted(wanted))
    return f"holds {_NAMES.get(found, f'a {found!r}')}, not {expected}"
