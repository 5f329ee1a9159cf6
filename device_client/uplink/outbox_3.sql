-- Added by schema 3. Updates that were not merged, and whose content is sent with the next round.
CREATE TABLE untold (
    sequence INTEGER PRIMARY KEY, payload BLOB NOT NULL, base_version INTEGER NOT NULL
) STRICT;
-- Values that a device remembers by name. A further name is a further row and needs no new schema.
CREATE TABLE note (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
