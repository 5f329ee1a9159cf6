-- The ledger's format 3. One file a task and shard. `ledger_2_to_3.sql` makes the same tables of a ledger of format 2.

-- format, task, shard, layout, and devices_min: how many devices a version needs, as the aggregator was last started.
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
-- Each has a handful of rows however long the line is, so that what is no longer kept is found without a search.
CREATE INDEX version_with_model ON version (version) WHERE model IS NOT NULL;
CREATE INDEX version_with_delta ON version (version) WHERE delta IS NOT NULL;
CREATE INDEX version_with_weights ON version (version) WHERE weights IS NOT NULL;
CREATE INDEX version_in_chunks ON version (version) WHERE chunks > 0;

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
    weight       REAL NOT NULL,           -- as merged: a restart under another policy must not change history. About 1;
                                          -- in samples where format 2 had merged it into a version already
    size_bytes   INTEGER NOT NULL,
    train_seconds REAL NOT NULL,
    payload      BLOB,                    -- emptied when older than the operator keeps
    merged_at    REAL NOT NULL,           -- Unix seconds
    scale        REAL NOT NULL DEFAULT 1, -- factor on the decoded difference, before it is weighted
    norm         REAL,                    -- of the decoded difference before that factor; NULL before format 3
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

-- One row for each device with a merged update: its part in the line, kept when the journal forgets its rows. Versions
-- are those whose buffer took an update of it, so the newest one may still be in the making.
CREATE TABLE account (
    device           TEXT PRIMARY KEY,
    first_version    INTEGER NOT NULL,
    previous_version INTEGER,             -- the one before last_version; NULL: none
    last_version     INTEGER NOT NULL,
    versions         INTEGER NOT NULL,    -- in so many versions it had a part
    updates          INTEGER NOT NULL,    -- merged
    weight           REAL NOT NULL,       -- sum over them
    samples          INTEGER NOT NULL,    -- as the newest one claimed
    staleness        INTEGER NOT NULL,    -- of the newest one
    slot_norm        REAL,                -- sum of norm over its updates in last_version; NULL: not known
    previous_samples   INTEGER,           -- as the newest update in previous_version claimed; NULL: not known
    previous_slot_norm REAL,              -- sum of norm in previous_version; NULL: not known
    last_journal_id  INTEGER NOT NULL,
    last_merged_at   REAL NOT NULL        -- Unix seconds
) WITHOUT ROWID;
CREATE INDEX account_by_merge ON account (last_journal_id);

-- Totals since the ledger began, by outcome (merged, merged_bytes, duplicate, refused) and reason of a refusal.
CREATE TABLE counter (
    outcome TEXT NOT NULL,
    reason  TEXT NOT NULL,
    count   INTEGER NOT NULL,
    PRIMARY KEY (outcome, reason)
) WITHOUT ROWID;

-- Merged updates by staleness in versions, since the ledger began.
CREATE TABLE merged_staleness (
    staleness INTEGER PRIMARY KEY,
    updates   INTEGER NOT NULL
);

-- What evaluators measured, newest word of each.
CREATE TABLE evaluation (
    version INTEGER NOT NULL,
    device  TEXT NOT NULL,
    samples INTEGER NOT NULL,
    metrics TEXT NOT NULL,                -- JSON
    PRIMARY KEY (version, device)
) WITHOUT ROWID;

-- What a merging rule remembers, so that a new rule adds rows and not a format: values under keys of its own, and values
-- of one device, each with the version that wrote it. A value stays until the rule replaces or deletes it.
CREATE TABLE rule_state (
    version INTEGER NOT NULL,
    key     TEXT NOT NULL,
    value   BLOB NOT NULL,
    PRIMARY KEY (version, key)
);
CREATE TABLE rule_device_state (
    device  TEXT NOT NULL,
    key     TEXT NOT NULL,
    version INTEGER NOT NULL,
    value   BLOB NOT NULL,
    PRIMARY KEY (device, key, version)
);
CREATE INDEX rule_device_state_by_version ON rule_device_state (version);
