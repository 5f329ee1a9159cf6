-- The ledger's format 2. One file a task and shard.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

-- The model line. `weights` are the float32 master weights, `model` and `delta` the messages that were published; only
-- the newest versions keep them, as far as a broker that lost its state needs them again.
CREATE TABLE version (
    version      INTEGER PRIMARY KEY,
    parent       INTEGER,
    digest       BLOB NOT NULL,           -- of the published (encoded) weights: what updates name as their base
    encoding     TEXT NOT NULL,
    chunks       INTEGER,                 -- of its snapshot, 0 inside the manifest; NULL: not published whole
    model        BLOB,
    delta        BLOB,                    -- NULL for a key version, too
    weights      BLOB,
    committed_at REAL NOT NULL            -- Unix seconds
);

-- The journal: every accepted update as it came, in the order of merging.
CREATE TABLE journal (
    id           INTEGER PRIMARY KEY,
    into_version INTEGER NOT NULL,        -- the version whose buffer took it
    device       TEXT NOT NULL,
    incarnation  BLOB NOT NULL,
    sequence     INTEGER NOT NULL,
    base_version INTEGER NOT NULL,
    staleness    INTEGER NOT NULL,
    samples      INTEGER NOT NULL,
    weight       REAL NOT NULL,           -- as merged: a restart under another policy must not change history
    size_bytes   INTEGER NOT NULL,
    train_seconds REAL NOT NULL,
    payload      BLOB,                    -- emptied when older than the operator keeps
    merged_at    REAL NOT NULL,           -- Unix seconds
    UNIQUE (device, incarnation, sequence)
);
CREATE INDEX journal_by_version ON journal (into_version);

-- One row a device incarnation: the newest update that was answered.
CREATE TABLE device (
    device       TEXT NOT NULL,
    incarnation  BLOB NOT NULL,
    sequence     INTEGER NOT NULL,
    refusal      TEXT,                    -- NULL: it was merged
    seen_at      REAL NOT NULL,
    PRIMARY KEY (device, incarnation)
) WITHOUT ROWID;

-- What was not merged, by outcome (duplicate, refused) and reason.
CREATE TABLE counter (
    outcome TEXT NOT NULL,
    reason  TEXT NOT NULL,
    count   INTEGER NOT NULL,
    PRIMARY KEY (outcome, reason)
) WITHOUT ROWID;

-- What evaluators measured, newest word of each.
CREATE TABLE evaluation (
    version INTEGER NOT NULL,
    device  TEXT NOT NULL,
    samples INTEGER NOT NULL,
    metrics TEXT NOT NULL,                -- JSON
    PRIMARY KEY (version, device)
) WITHOUT ROWID;
