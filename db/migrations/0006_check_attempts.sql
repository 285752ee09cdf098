-- serves: 1
-- txmsg schema 6: what checks came to, for people. db/README.md section 2.

-- A check that gave no verdict: answered UNKNOWN, or not answered. Insert-only, and bounded for each transaction: the first few, then
-- only those that say something else than the one before. Rows go after store.retention.
CREATE TABLE check_attempt (
    tx       uuid        NOT NULL,
    tries    integer     NOT NULL,               -- which check it was, from 1
    unknowns integer     NOT NULL,               -- answered UNKNOWN so far, this one included
    at       timestamptz NOT NULL DEFAULT now(),
    error    text        NOT NULL
);
CREATE INDEX check_attempt_tx ON check_attempt (tx);
CREATE INDEX check_attempt_at ON check_attempt (at);
