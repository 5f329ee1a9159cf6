-- One row: the owner of the outbox. `last_sequence` is never used again.
CREATE TABLE identity (
    task TEXT NOT NULL, device TEXT NOT NULL, incarnation BLOB NOT NULL, last_sequence INTEGER NOT NULL
) STRICT;
-- Updates that wait for their receipts. `payload_digest`: the first 8 bytes of the SHA-256 of the payload.
CREATE TABLE queue (
    sequence INTEGER PRIMARY KEY, payload BLOB NOT NULL, payload_digest BLOB NOT NULL,
    base_version INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0
) STRICT;
-- At most one row: the local student after `rounds` rounds on its base, and the residual that its updates have left
-- unsent (NULL: none). Both vectors are float32 little endian, `finished_at` is in Unix seconds.
CREATE TABLE line (
    one INTEGER PRIMARY KEY CHECK (one = 1), base_version INTEGER NOT NULL, base_digest BLOB NOT NULL,
    rounds INTEGER NOT NULL, weights BLOB NOT NULL, finished_at REAL NOT NULL, residual BLOB
) STRICT;
-- At most one row: the newest global model, as an encoded manifest with the model inline.
CREATE TABLE model (one INTEGER PRIMARY KEY CHECK (one = 1), manifest BLOB NOT NULL) STRICT;
