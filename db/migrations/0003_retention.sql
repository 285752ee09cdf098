-- txmsg schema 3: what retention and exact counters need. db/README.md sections 5 and 8 argue it.
-- serves: 1

-- Counters as differences: the sum over the rows of a subscription (0: of transactions) is its counter. Rows are only
-- inserted, by whoever changes a count outside of a lane, and by the roll-up; that also folds many rows into one.
CREATE TABLE stat (
    sub        integer NOT NULL,
    prepared   bigint  NOT NULL DEFAULT 0,
    confirmed  bigint  NOT NULL DEFAULT 0,
    cancelled  bigint  NOT NULL DEFAULT 0,
    tombstones bigint  NOT NULL DEFAULT 0,
    delivered  bigint  NOT NULL DEFAULT 0,
    dead       bigint  NOT NULL DEFAULT 0,
    discarded  bigint  NOT NULL DEFAULT 0
);

-- How far the entries of a lane are in `stat`; a lane without a row begins at 0.
CREATE TABLE lane_stat (
    lane integer PRIMARY KEY,
    seq  integer NOT NULL
) WITH (fillfactor = 50);

-- A deleted subscription whose open deliveries are counted as discarded.
ALTER TABLE subscription ADD COLUMN settled boolean NOT NULL DEFAULT false;

-- Old attempts leave from the front.
CREATE INDEX attempt_at ON attempt (at);
