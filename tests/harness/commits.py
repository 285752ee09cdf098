"""Holds or refuses a commit of the daemon at its very end: every row has been taken by then, and who does not wait for
the commit itself believes that it is through."""

from servers.process import wait_until

KEY = 7400
SQL = """
CREATE TABLE tested_commit (tx text PRIMARY KEY, act text NOT NULL);
CREATE FUNCTION tested_commit() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
DECLARE
    what text;
BEGIN
    SELECT act INTO what FROM tested_commit WHERE tx = to_jsonb(NEW) ->> TG_ARGV[0];
    IF what = 'refuse' THEN
        RAISE SQLSTATE '53100' USING MESSAGE = 'no space left on device';
    ELSIF what = 'hold' THEN
        PERFORM pg_advisory_xact_lock_shared(%(key)s);
    END IF;
    RETURN NULL;
END $$;
"""
TRIGGER = ("CREATE CONSTRAINT TRIGGER tested_commit AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED "
           "FOR EACH ROW EXECUTE FUNCTION tested_commit('{column}')")
TABLES = {"message": "tx", "audit": "object"}


class Commits:
    """The commits of one world: of batches by transaction id, of a topology by `kind/name`."""

    def __init__(self, world):
        self.world = world
        world.sql(SQL % {"key": KEY})
        for table, column in TABLES.items():
            world.sql(TRIGGER.format(table=table, column=column))

    def refuse(self, key):
        self.world.sql("INSERT INTO tested_commit VALUES (%s, 'refuse')", key)

    def hold(self, key):
        self.world.sql("SELECT pg_advisory_lock(%s)", KEY)
        self.world.sql("INSERT INTO tested_commit VALUES (%s, 'hold')", key)

    def wait_held(self, timeout=20):
        held = ("SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE d.datname = current_database() "
                "AND locktype = 'advisory' AND NOT granted")
        wait_until(lambda: self.world.sql(held)[0][0], timeout, "a commit is held")

    def release(self):
        """Everything goes on, and nothing more is held or refused."""
        self.world.sql("DELETE FROM tested_commit")
        self.world.sql("SELECT pg_advisory_unlock_all()")


def waiting(world, application, query="%"):
    """How many of the daemons' connections with such a name wait for a lock with such a statement."""
    return world.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                     "AND wait_event_type = 'Lock' AND application_name LIKE %s AND query LIKE %s", application, query)[0][0]
