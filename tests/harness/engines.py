"""Three databases with one face, to try the SQL recipes of client/ on: sessions, the recipes of a page, and what each of
them says when a key is there already or a lock does not come."""

import os
import re
import sqlite3

import psycopg2
import psycopg2.errors
import pytest

from .mariadb import DAEMON, MariaDB
from .recipes import recipes
from servers.process import wait_until


class Engine:
    """`sessions` are transactions by hand: no statement begins or ends one by itself."""

    param = "%(id)s"

    def __init__(self, page):
        self.recipes = recipes(page, self.heading)

    def run(self, session, name, wait=None, **params):
        """The statements of a recipe; answers the last one's cursor. `wait`: seconds instead of the recipe's lock timeout."""
        for statement in self.recipes[name]:
            if wait:
                statement = re.sub(self.lock_wait, lambda m: m[1] + self.wait_text(wait), statement)
            cursor = self.execute(session, statement, **params)
        return cursor

    def execute(self, session, statement, **params):
        cursor = session.cursor()
        cursor.execute(re.sub(r"(?<!:):([a-z_]+)\b", lambda m: self.param.replace("id", m[1]), statement), params)
        return cursor

    def rollback(self, session):
        self.execute(session, "ROLLBACK")

    def close(self):
        pass


class PostgreSQL(Engine):
    heading, lock_wait = "PostgreSQL", r"(lock_timeout = )'1s'"
    Duplicate, LockTimeout = psycopg2.errors.UniqueViolation, psycopg2.errors.LockNotAvailable

    def __init__(self, page, site, name):
        super().__init__(page)
        self.postgres, self.name = site.postgres, name
        self.postgres.create_database(name)

    def session(self):
        session = psycopg2.connect(self.postgres.dsn(self.name))
        session.autocommit = True
        return session

    @staticmethod
    def wait_text(seconds):
        return f"'{seconds}s'"

    def wait_blocked(self, session):
        watch = self.session()
        pid = session.info.backend_pid
        wait_until(lambda: self.execute(watch, f"SELECT cardinality(pg_blocking_pids({pid}))").fetchone()[0], 30,
                   "the session waits for a lock")


class MySQL(Engine):
    heading, lock_wait = "MySQL and MariaDB", r"(innodb_lock_wait_timeout = )1"

    def __init__(self, page, site, name):
        super().__init__(page)
        import pymysql

        self.Duplicate, self.Operational = pymysql.err.IntegrityError, pymysql.err.OperationalError
        self.server = MariaDB(site.base / name).start()

    @property
    def LockTimeout(self):
        return self.Operational

    def session(self):
        return self.server.connect("shop", autocommit=True)

    @staticmethod
    def wait_text(seconds):
        return str(seconds)

    def wait_blocked(self, session):
        watch = self.session()
        wait_until(lambda: self.execute(watch, "SELECT count(*) FROM information_schema.innodb_trx WHERE "
                                               f"trx_state = 'LOCK WAIT' AND trx_mysql_thread_id = {session.thread_id()}"
                                        ).fetchone()[0], 30, "the session waits for a lock")

    def close(self):
        self.server.close()


class SQLite(Engine):
    heading, lock_wait, param = "SQLite", r"(busy_timeout = )1000", ":id"
    Duplicate, LockTimeout = sqlite3.IntegrityError, sqlite3.OperationalError

    def __init__(self, page, site, name):
        super().__init__(page)
        self.path = site.base / f"{name}.sqlite"

    def session(self):
        return sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)

    def rollback(self, session):
        session.rollback() # its BEGIN may be what failed

    @staticmethod
    def wait_text(seconds):
        return str(seconds * 1000)

    def wait_blocked(self, session):
        """SQLite does not tell; a test must be right whether it waits yet or not."""


def make_engine(kind, page, site, name):
    """Skips the test, and says why, where the server is missing."""
    if kind is MySQL:
        if not os.access(DAEMON, os.X_OK):
            pytest.skip("no MariaDB: apt-get install mariadb-server-core")
        pytest.importorskip("pymysql", reason="no PyMySQL: see tests/requirements.txt")
    return kind(page, site, name)


def engine_fixture(page, prefix, *statements):
    """For a module: each engine in turns, with the schema of the page and what these statements make."""
    @pytest.fixture(scope="module", params=[PostgreSQL, MySQL, SQLite], ids=lambda k: k.__name__)
    def engine(request, site):
        made = make_engine(request.param, page, site, f"{prefix}_{request.param.__name__.lower()}")
        try:
            session = made.session()
            for statement in [*made.recipes["schema"] * 2, *statements]: # the schema may run again
                made.execute(session, statement)
            yield made
        finally:
            made.close()

    return engine


def session_fixture():
    """A session of the module's engine, for each test."""
    @pytest.fixture
    def session(engine):
        return engine.session()

    return session
