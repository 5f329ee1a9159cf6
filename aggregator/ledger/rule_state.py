"""The state of the merging rule in the ledger: tables `rule_state` and `rule_device_state`.

A value stays until the rule replaces or deletes it: there is one row per key, with the version that wrote it. Pruning
leaves these rows alone, so a rule must bound what it keeps. Keys start with the rule's name. The first version made by
another rule deletes the previous rule's state, which would be out of date if that rule ran again.
"""

import sqlite3

from aggregator.merging.rule import RuleState

_PREFIX = "substr(key, 1, length(:prefix)) = :prefix"


def write_state(db: sqlite3.Connection, rule: str, version: int, state: RuleState) -> None:
    """Writes what `version` changed in the state of `rule`, within the caller's transaction."""
    assert state.shared or not state.devices, "a rule with state of devices has a shared value, too"
    prefix = f"{rule}/"
    if db.execute(f"SELECT 1 FROM rule_state WHERE NOT {_PREFIX} LIMIT 1", {"prefix": prefix}).fetchone():  # noqa: S608
        for table in ("rule_state", "rule_device_state"):
            db.execute(f"DELETE FROM {table} WHERE NOT {_PREFIX}", {"prefix": prefix})  # noqa: S608
    for key, value in state.shared.items():
        db.execute("DELETE FROM rule_state WHERE key = ?", (prefix + key,))
        if value is not None:
            db.execute("INSERT INTO rule_state VALUES (?, ?, ?)", (version, prefix + key, value))
    for (device, key), value in state.devices.items():
        db.execute("DELETE FROM rule_device_state WHERE device = ? AND key = ?", (device, prefix + key))
        if value is not None:
            db.execute("INSERT INTO rule_device_state VALUES (?, ?, ?, ?)", (device, prefix + key, version, value))


def read_state(db: sqlite3.Connection, rule: str) -> RuleState:
    """Complete state of `rule` as of the newest version."""
    prefix = f"{rule}/"
    shared = db.execute(f"SELECT key, value FROM rule_state WHERE {_PREFIX}", {"prefix": prefix})  # noqa: S608
    devices = db.execute(f"SELECT device, key, value FROM rule_device_state WHERE {_PREFIX}", {"prefix": prefix})  # noqa: S608
    return RuleState(
        shared={key.removeprefix(prefix): value for key, value in shared},
        devices={(device, key.removeprefix(prefix)): value for device, key, value in devices},
    )
