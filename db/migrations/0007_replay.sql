-- serves: 1
-- txmsg schema 7: replays, which send confirmed messages to a subscription again. db/README.md argues the tables.
CREATE TABLE replay (
    id        uuid        PRIMARY KEY,
    sub       integer     NOT NULL,
    asked     text        NOT NULL,           -- what was asked for: a repeat of the call must ask for the same
    from_at   timestamptz,                    -- NULL: by ids, all rows were made at once
    to_at     timestamptz,
    producer  text,
    rate      integer     NOT NULL,           -- messages a second
    state     smallint    NOT NULL DEFAULT 1, -- 1 running, 2 done, 3 cancelled
    scanned   boolean     NOT NULL DEFAULT false,
    pos_at    timestamptz,                    -- every entry before (at, lane, seq, index) was looked at
    pos_lane  integer     NOT NULL DEFAULT 0,
    pos_seq   integer     NOT NULL DEFAULT 0,
    pos_index integer     NOT NULL DEFAULT -1,
    next      timestamptz NOT NULL DEFAULT now(), -- of its next step, by whichever replica
    sent      bigint      NOT NULL DEFAULT 0, -- rows made
    delivered bigint      NOT NULL DEFAULT 0, -- the sums of replay_count, once it has ended
    failed    bigint      NOT NULL DEFAULT 0,
    skipped   bigint      NOT NULL DEFAULT 0,
    last_error text,
    actor     text        NOT NULL,
    reason    text,
    at        timestamptz NOT NULL DEFAULT now(),
    ended     timestamptz
);
CREATE INDEX replay_next ON replay (next) WHERE state = 1;
CREATE INDEX replay_at ON replay (at);

-- Deliveries of a replay that are not ended, as in delivery_due.
CREATE TABLE replay_due (
    replay  uuid        NOT NULL,
    sub     integer     NOT NULL,
    tx      uuid        NOT NULL,
    n       smallint    NOT NULL,
    due     timestamptz NOT NULL,
    since   timestamptz NOT NULL DEFAULT now(),
    attempt integer     NOT NULL DEFAULT 0,
    token   integer     NOT NULL DEFAULT 0,
    last_error text,
    PRIMARY KEY (replay, tx, n)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
CREATE INDEX replay_due_next ON replay_due (sub, due);

-- What became of them, as differences: inserted by the batches that end them.
CREATE TABLE replay_count (
    replay    uuid    NOT NULL,
    delivered integer NOT NULL,
    failed    integer NOT NULL,
    skipped   integer NOT NULL,
    error     text
);
CREATE INDEX replay_count_of ON replay_count (replay);

-- The first entry of a lane that is not older than a time, by halving: entries of one lane come in order of their time.
CREATE FUNCTION lane_seq_at(l integer, t timestamptz) RETURNS integer LANGUAGE plpgsql STABLE AS $$
DECLARE
    lo integer; hi integer; mid integer; s integer; a timestamptz;
BEGIN
    SELECT g.seq INTO lo FROM lane_log g WHERE g.lane = l ORDER BY g.seq LIMIT 1;
    SELECT g.seq + 1 INTO hi FROM lane_log g WHERE g.lane = l ORDER BY g.seq DESC LIMIT 1;
    WHILE lo < hi LOOP
        mid := lo + (hi - lo) / 2;
        SELECT g.seq, g.at INTO s, a FROM lane_log g WHERE g.lane = l AND g.seq >= mid ORDER BY g.seq LIMIT 1;
        IF a < t THEN lo := s + 1; ELSE hi := mid; END IF;
    END LOOP;
    RETURN coalesce(lo, 0);
END $$;
