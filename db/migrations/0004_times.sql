-- serves: 1
-- txmsg schema 4: deliveries that were given up without being dead. A message whose expire_at passed undelivered, for
-- one subscription. Insert-only, for people: the counters are in the lane rows. Rows leave with their partition's age.
CREATE TABLE discarded (
    sub    integer     NOT NULL,
    tx     uuid        NOT NULL,
    n      smallint    NOT NULL,
    at     timestamptz NOT NULL DEFAULT now(),
    reason text        NOT NULL,
    PRIMARY KEY (tx, sub, n)
);
CREATE INDEX discarded_at ON discarded (at);
