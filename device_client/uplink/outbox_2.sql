-- Added by schema 2. `pins`: ids (8 bytes each) of the model keys that the model was checked with, none: x''.
ALTER TABLE model ADD COLUMN pins BLOB NOT NULL DEFAULT x'';
-- At most one row: the highest version signed by a pinned key, and the ids (8 bytes each) of the keys that signed it.
CREATE TABLE believed (
    one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, digest BLOB NOT NULL, key_ids BLOB NOT NULL
) STRICT;
