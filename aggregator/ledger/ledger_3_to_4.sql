-- From format 3. Its lines bounded running statistics together with weights, or had none.

ALTER TABLE journal ADD COLUMN statistics_scale REAL NOT NULL DEFAULT 1;
ALTER TABLE journal ADD COLUMN statistics_norm REAL;
ALTER TABLE account ADD COLUMN statistics_norm REAL;
ALTER TABLE account ADD COLUMN previous_statistics_norm REAL;
