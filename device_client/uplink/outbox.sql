-- One row: whose outbox it is. `last_sequence` is never given again.
CREATE TABLE identity (
    task TEXT NOT NULL, device TEXT NOT NULL, incarnation BLOB NOT NULL, last_sequence INTEGER NOT NULL
) STRICT;
-- Updates that wait for their receipts. The digest is the first 8 bytes of the SHA-256 of the payload.
CREATE TABLE queue (
    sequence INTEGER PRIMARY KEY, payload BLOB NOT NULL, payload_digest BLOB NOT NULL,
    base_version INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0
) STRICT;
-- At most one row: the local student after so many rounds on its base, and what its updates have not told yet
-- (NULL: nothing), both float32 little endian, and Unix seconds.
CREATE TABLE line (
    one INTEGER PRIMARY KEY CHECK (one = 1), base_version INTEGER NOT NULL, base_digest BLOB NOT NULL,
    rounds INTEGER NOT NULL, weights BLOB NOT NULL, finished_at REAL NOT NULL, residual BLOB
) STRICT;
-- At most one row: the newest global model, as an encoded manifest with the model inline.
CREATE TABLE model (one INTEGER PRIMARY KEY CHECK (one = 1), manifest BLOB NOT NULL) STRICT;
