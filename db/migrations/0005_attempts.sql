-- txmsg schema 5: the whole story of a delivery that failed at least once. db/README.md section 2.
-- serves: 1

-- One row is an attempt that failed, or the one that succeeded after others had failed. Rows of older versions have no class.
ALTER TABLE attempt
    ADD COLUMN class      text,    -- `ok`, or why it failed: timeout, unreachable, status_5xx, ...
    ADD COLUMN status     integer, -- of the answer; NULL = none came
    ADD COLUMN latency_ms integer, -- from the hand-over to the sink to its end
    ADD COLUMN response   text,    -- how the answer began, at most 512 bytes
    ADD COLUMN run        uuid;    -- the worker of one process run that made it

-- A dead letter keeps its attempts like its payload: retention does not reach it.
ALTER TABLE dead_letter
    ADD COLUMN class   text,       -- of the last attempt
    ADD COLUMN history jsonb;      -- its latest 64 attempts, oldest first
