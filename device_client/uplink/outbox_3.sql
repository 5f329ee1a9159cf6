-- What schema 3 adds. Updates that the aggregator did not take, and whose content the next round tells again.
CREATE TABLE untold (
    sequence INTEGER PRIMARY KEY, payload BLOB NOT NULL, base_version INTEGER NOT NULL
) STRICT;
-- What a device remembers by name. A further name is a further row, not a further schema.
CREATE TABLE note (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
