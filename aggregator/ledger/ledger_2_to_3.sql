-- From format 2, of which every update ever merged is in the journal, so that all totals can be counted.

CREATE INDEX version_with_model ON version (version) WHERE model IS NOT NULL;
CREATE INDEX version_with_delta ON version (version) WHERE delta IS NOT NULL;
CREATE INDEX version_with_weights ON version (version) WHERE weights IS NOT NULL;
CREATE INDEX version_in_chunks ON version (version) WHERE chunks > 0;

ALTER TABLE journal ADD COLUMN scale REAL NOT NULL DEFAULT 1;
ALTER TABLE journal ADD COLUMN norm REAL;

CREATE TABLE account (
    device           TEXT PRIMARY KEY,
    first_version    INTEGER NOT NULL,
    previous_version INTEGER,
    last_version     INTEGER NOT NULL,
    versions         INTEGER NOT NULL,
    updates          INTEGER NOT NULL,
    weight           REAL NOT NULL,
    samples          INTEGER NOT NULL,
    staleness        INTEGER NOT NULL,
    slot_norm        REAL,
    previous_samples   INTEGER,
    previous_slot_norm REAL,
    last_journal_id  INTEGER NOT NULL,
    last_merged_at   REAL NOT NULL
) WITHOUT ROWID;
-- With max() alone, SQLite takes the bare columns from the row that has the maximum.
INSERT INTO account
    SELECT device, first_version, NULL, last_version, versions, updates, weight, samples, staleness,
           NULL, NULL, NULL, last_id, at
    FROM (
        SELECT device, min(into_version) AS first_version, count(DISTINCT into_version) AS versions,
               count(*) AS updates, sum(weight) AS weight
        FROM journal GROUP BY device
    ) JOIN (
        SELECT device, max(id) AS last_id, into_version AS last_version, samples, staleness, merged_at AS at
        FROM journal GROUP BY device
    ) USING (device);
UPDATE account SET previous_version = earlier.version
    FROM (
        SELECT journal.device AS device, max(into_version) AS version
        FROM journal JOIN account ON account.device = journal.device AND into_version < last_version
        GROUP BY journal.device
    ) AS earlier
    WHERE earlier.device = account.device;
-- Weights were in samples and are about 1 now. What stays in use is brought to the new unit: sums of weight, and what
-- waits for the next version beside updates to come. Divided by a power of two, floats keep their bits.
CREATE TEMPORARY TABLE unit AS
    WITH RECURSIVE power (value) AS (
        VALUES (1.0) UNION ALL SELECT 2 * value FROM power WHERE 2 * value <= (SELECT avg(weight) FROM journal)
    )
    SELECT max(value) AS value FROM power;
UPDATE account SET weight = weight / (SELECT value FROM unit);
UPDATE journal SET weight = weight / (SELECT value FROM unit) WHERE into_version > (SELECT max(version) FROM version);
DROP TABLE unit;
CREATE INDEX account_by_merge ON account (last_journal_id);

INSERT INTO counter SELECT 'merged', '', count(*) FROM journal;
INSERT INTO counter SELECT 'merged_bytes', '', coalesce(sum(size_bytes), 0) FROM journal;

CREATE TABLE merged_staleness (
    staleness INTEGER PRIMARY KEY,
    updates   INTEGER NOT NULL
);
INSERT INTO merged_staleness SELECT staleness, count(*) FROM journal GROUP BY staleness;

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
