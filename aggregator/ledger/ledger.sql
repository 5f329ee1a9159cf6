-- Format 4 of the ledger, one file per task and shard. `ledger_2_to_3.sql` and `ledger_3_to_4.sql` migrate older ones.

-- format, task, shard, layout, line (its description, if it began with one), devices_min (--devices-min at the last
-- start), closed_at (Unix seconds of close-line), journal_horizon, boot, main_metric (JSON: name and whether higher is
-- better, of the newest evaluation; absent: accuracy).
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

-- The model line. `weights` are the float32 master weights, `model` and `delta` the published messages. Only the newest
-- versions keep them, as far as a restart, or a broker that has lost its state, needs them again.
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
-- These indices have a handful of rows, whatever the number of versions, so expired blobs are found without a scan.
CREATE INDEX version_with_model ON version (version) WHERE model IS NOT NULL;
CREATE INDEX version_with_delta ON version (version) WHERE delta IS NOT NULL;
CREATE INDEX version_with_weights ON version (version) WHERE weights IS NOT NULL;
CREATE INDEX version_in_chunks ON version (version) WHERE chunks > 0;

-- The journal: every accepted update as received, in the order of merging.
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
    statistics_scale REAL NOT NULL DEFAULT 1, -- factor on the running statistics' difference from the model's
    statistics_norm  REAL,                -- their distance from the model's; NULL: the layout has none
    UNIQUE (device, incarnation, sequence)
);
CREATE INDEX journal_by_version ON journal (into_version);

-- One row per device incarnation: the newest update that was answered.
CREATE TABLE device (
    device       TEXT NOT NULL,
    incarnation  BLOB NOT NULL,
    sequence     INTEGER NOT NULL,
    refusal      TEXT,                    -- NULL: it was merged
    seen_at      REAL NOT NULL,
    PRIMARY KEY (device, incarnation)
) WITHOUT ROWID;

-- One row for each device with a merged update, kept when its journal rows are pruned. Versions are those whose buffer
-- has taken an update of the device, so the newest one may not be committed yet.
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
    last_merged_at   REAL NOT NULL,       -- Unix seconds
    statistics_norm          REAL,        -- of the newest update; NULL: the layout has no running statistics
    previous_statistics_norm REAL         -- of the newest update in previous_version
) WITHOUT ROWID;
CREATE INDEX account_by_merge ON account (last_journal_id);

-- Totals since the ledger was created, by outcome (merged, merged_bytes, duplicate, refused) and reason of a refusal.
CREATE TABLE counter (
    outcome TEXT NOT NULL,
    reason  TEXT NOT NULL,
    count   INTEGER NOT NULL,
    PRIMARY KEY (outcome, reason)
) WITHOUT ROWID;

-- Number of merged updates by staleness in versions, since the ledger was created.
CREATE TABLE merged_staleness (
    staleness INTEGER PRIMARY KEY,
    updates   INTEGER NOT NULL
);

-- The newest evaluation of each version by each evaluator.
CREATE TABLE evaluation (
    version INTEGER NOT NULL,
    device  TEXT NOT NULL,
    samples INTEGER NOT NULL,
    metrics TEXT NOT NULL,                -- JSON
    PRIMARY KEY (version, device)
) WITHOUT ROWID;

-- State of the merging rule: values by key, and values by device and key, each with the version that wrote it. A value
-- stays until the rule replaces or deletes it (rule_state.py). A new rule adds rows, and needs no new format.
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
