-- txmsg schema 9: who is told that something needs a person, see db/README.md section 2.
-- serves: 1

-- One row while a subscription has dead letters, or a producer has STUCK transactions, until the end of it was told. `due` is the next
-- notice and at the same time the end of the lease of whoever sends it; the token makes a late end harmless.
CREATE TABLE alert (
    kind     text        NOT NULL, -- dead_letters, stuck
    object   text        NOT NULL, -- subscription, producer
    id       uuid        NOT NULL DEFAULT gen_random_uuid(), -- with seq the id of a notice, so that a repeat is known
    seq      integer     NOT NULL DEFAULT 0, -- notices told
    since    timestamptz NOT NULL DEFAULT now(),
    due      timestamptz NOT NULL DEFAULT now(),
    token    integer     NOT NULL DEFAULT 0,
    tries    integer     NOT NULL DEFAULT 0, -- of this notice
    sending  boolean     NOT NULL DEFAULT false,
    resolved boolean     NOT NULL DEFAULT false, -- it is over, and that is still to be told
    PRIMARY KEY (kind, object)
) WITH (fillfactor = 50);
