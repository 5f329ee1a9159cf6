-- What schema 2 adds. `pins`: ids (8 bytes each) of the model keys that were pinned when the model came, none: b''.
ALTER TABLE model ADD COLUMN pins BLOB NOT NULL DEFAULT x'';
-- At most one row: the highest version that a pinned key vouched for, and the ids (8 bytes each) of those keys.
CREATE TABLE believed (
    one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, digest BLOB NOT NULL, key_ids BLOB NOT NULL
) STRICT;
