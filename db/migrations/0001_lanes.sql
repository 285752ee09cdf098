-- txmsg schema 1: append-only messages, decisions and lanes, and narrow rows for the exceptions.
-- On the normal path nothing here is ever updated or deleted per message. db/README.md argues each table.

-- One row: what every replica must agree on. Each change of run-time configuration raises `epoch` in its transaction.
CREATE TABLE cfg (
    one               boolean     PRIMARY KEY DEFAULT true CHECK (one),
    epoch             bigint      NOT NULL DEFAULT 1,
    floor             uuid        NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000', -- ids below are past retention
    partition_seconds integer     NOT NULL DEFAULT 86400 CHECK (partition_seconds BETWEEN 1 AND 31622400),
    origin            timestamptz NOT NULL DEFAULT date_trunc('day', now(), 'UTC')          -- period 0 of lane numbers begins here
);
INSERT INTO cfg DEFAULT VALUES;

-- A message of a transaction. Row n = 0 carries what belongs to the whole transaction; total = 0 is a tombstone.
CREATE TABLE message (
    tx           uuid     NOT NULL,
    n            smallint NOT NULL,
    total        smallint NOT NULL,          -- messages of the transaction; 0 = tombstone of a Cancel that came first
    delay_class  smallint NOT NULL,          -- of the first check: 0 = 1 s, 1 = 10 s, 2 = 1 min, 3 = 10 min
    later        smallint NOT NULL DEFAULT 0, -- how many bodies the decision brings
    check_after  integer  NOT NULL,          -- milliseconds until the first check
    at           timestamptz NOT NULL DEFAULT now(), -- of the transaction that stored it
    producer     text     NOT NULL,
    topic        text,
    business_key text,
    digest       bytea,                      -- of the whole transaction, in row 0
    trace        text,
    okey         bytea,
    content_type text,
    headers      text,                       -- JSON object of strings; text because nothing queries inside
    deliver_at   timestamptz,
    expire_at    timestamptz,
    body         bytea,
    PRIMARY KEY (tx, n)
) PARTITION BY RANGE (tx);
ALTER TABLE message ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX message_business_key ON message (producer, business_key, tx) WHERE n = 0 AND business_key IS NOT NULL;

CREATE TABLE decision (
    tx       uuid        NOT NULL,
    verdict  smallint    NOT NULL CHECK (verdict IN (1, 2)),   -- 1 COMMITTED, 2 ROLLED_BACK
    origin   smallint    NOT NULL CHECK (origin IN (1, 2, 3)), -- 1 rpc, 2 check, 3 admin
    producer text        NOT NULL, -- by a left join from the header: no matching header aborts the statement
    lane     integer     NOT NULL,
    seq      integer     NOT NULL,
    at       timestamptz NOT NULL,
    actor    text,
    reason   text,
    amend    bytea[],              -- bodies given at Confirm
    PRIMARY KEY (tx)
) PARTITION BY RANGE (tx);

-- One row per group commit of a worker; the key is the fence.
CREATE TABLE lane_log (
    lane        integer     NOT NULL,
    seq         integer     NOT NULL,
    kind        "char"      NOT NULL CHECK (kind IN ('D', 'N', 'S', 'P')), -- data, noop, seal, progress
    nonce       bigint      NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    xid         xid8        NOT NULL DEFAULT pg_current_xact_id(),
    above_floor boolean     NOT NULL DEFAULT true,
    classes     smallint    NOT NULL DEFAULT 0, -- bit per delay class met in prep: the finder skips entries without its class
    prep        uuid[],
    conf        uuid[],
    cnt         integer[],                      -- counter deltas: prepared, confirmed, cancelled, tombstones
    sub_cnt     integer[],                      -- per subscription: id, delivered, dead, discarded, spilled; id, ...
    prog        integer[],                      -- changed cursors: target, seq, index, ...
    PRIMARY KEY (lane, seq)
) PARTITION BY RANGE (lane);

CREATE TABLE worker (
    run     uuid        PRIMARY KEY, -- one worker of one process run
    host    text        NOT NULL,
    beat    bigint      NOT NULL DEFAULT 0,
    epoch   bigint      NOT NULL DEFAULT 0, -- configuration applied
    started timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE lane (
    lane  integer PRIMARY KEY,
    run   uuid    NOT NULL,
    state text    NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'sealed', 'drained'))
) WITH (fillfactor = 50);
CREATE INDEX lane_live ON lane (lane) WHERE state <> 'drained';

CREATE TABLE topic (
    name text PRIMARY KEY,
    spec jsonb NOT NULL
);
CREATE TABLE producer (
    name text PRIMARY KEY,
    spec jsonb NOT NULL
);
CREATE TABLE subscription (
    id      integer     PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name    text        NOT NULL,
    spec    jsonb       NOT NULL,
    state   text        NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'deleted')),
    created timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX subscription_name ON subscription (name) WHERE state <> 'deleted';

-- Where a subscription begins in each lane that was stored when it was created; a lane without a row begins at 0.
CREATE TABLE sub_vec (
    sub        integer NOT NULL,
    lane       integer NOT NULL,
    from_seq   integer NOT NULL,
    from_index integer NOT NULL,
    PRIMARY KEY (sub, lane)
);

-- Undecided transactions whose first check is due or past. state 1 = STUCK.
CREATE TABLE check_due (
    tx         uuid        PRIMARY KEY,
    producer   text        NOT NULL,
    due        timestamptz NOT NULL,
    tries      integer     NOT NULL DEFAULT 0, -- requests sent, answered or not
    unknowns   integer     NOT NULL DEFAULT 0, -- answered UNKNOWN
    failures   integer     NOT NULL DEFAULT 0, -- unreachable in a row
    token      integer     NOT NULL DEFAULT 0,
    state      smallint    NOT NULL DEFAULT 0,
    last_error text
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
CREATE INDEX check_due_next ON check_due (producer, due) WHERE state = 0;
CREATE INDEX check_due_stuck ON check_due (tx) WHERE state = 1;

-- Deliveries that failed at least once. `due` doubles as the end of a claimer's lease.
CREATE TABLE delivery_due (
    sub        integer     NOT NULL,
    tx         uuid        NOT NULL,
    n          smallint    NOT NULL,
    due        timestamptz NOT NULL,
    since      timestamptz NOT NULL DEFAULT now(), -- first failure
    attempt    integer     NOT NULL,               -- attempts made
    token      integer     NOT NULL DEFAULT 0,
    lane       integer     NOT NULL,
    seq        integer     NOT NULL,
    last_error text,
    PRIMARY KEY (sub, tx, n)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
CREATE INDEX delivery_due_next ON delivery_due (sub, due);

-- Deliveries that ended without success, with a copy of the payload: retention of `message` does not touch them.
CREATE TABLE dead_letter (
    sub          integer     NOT NULL,
    tx           uuid        NOT NULL,
    n            smallint    NOT NULL,
    at           timestamptz NOT NULL DEFAULT now(),
    attempts     integer     NOT NULL,
    error        text        NOT NULL,
    producer     text        NOT NULL,
    topic        text        NOT NULL,
    business_key text,
    trace        text,
    okey         bytea,
    content_type text,
    headers      text,
    body         bytea,
    PRIMARY KEY (sub, tx, n)
);
CREATE INDEX dead_letter_at ON dead_letter (sub, at);

-- Failed attempts, for people. Insert-only.
CREATE TABLE attempt (
    sub     integer     NOT NULL,
    tx      uuid        NOT NULL,
    n       smallint    NOT NULL,
    attempt integer     NOT NULL,
    at      timestamptz NOT NULL DEFAULT now(),
    error   text        NOT NULL
);
CREATE INDEX attempt_tx ON attempt (tx, sub, n);

-- What people did. Insert-only.
CREATE TABLE audit (
    id     bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    at     timestamptz NOT NULL DEFAULT now(),
    actor  text        NOT NULL,
    act    text        NOT NULL,
    object text        NOT NULL,
    reason text,
    before jsonb,
    after  jsonb
);
