-- txmsg schema 8: messages that the service itself sends, see db/README.md section 2.
-- serves: 1

-- Written in the transaction of what it tells of (a dead letter whose subscription has a dead_letter_topic), published under
-- its id through a lane, and deleted: a repeat after a crash is the same id with the same content, and agrees.
CREATE TABLE outbox (
    id           uuid        PRIMARY KEY, -- the transaction that it becomes
    due          timestamptz NOT NULL DEFAULT now(), -- doubles as the end of a publisher's lease
    topic        text        NOT NULL,
    business_key text,
    trace        text,
    okey         bytea,
    content_type text,
    headers      text,
    body         bytea
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
ALTER TABLE outbox ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX outbox_due ON outbox (due);
