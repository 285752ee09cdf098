"""The SQL of client/consumers.md on PostgreSQL, MariaDB and SQLite: a message that comes twice is done once."""

import threading

import pytest
from harness.engines import PostgreSQL, SQLite, engine_fixture, session_fixture
from harness.ids import uuid7

DAY = 86400
engine = engine_fixture("consumers.md", "inbox", "CREATE TABLE account (points int)", "INSERT INTO account VALUES (0)")
one, two = session_fixture(), session_fixture()


def points(engine):
    return engine.execute(engine.session(), "SELECT points FROM account").fetchone()[0]


def begin(engine, session):
    engine.execute(session, "BEGIN IMMEDIATE" if isinstance(engine, SQLite) else "BEGIN")


def enter(engine, session, tx, consumer="points", n=0):
    """As the page words it, inside a transaction: 'first', 'done' or 'too old'."""
    key = {"consumer": consumer, "id": tx, "n": n}
    if isinstance(engine, PostgreSQL):
        if engine.run(session, "enter", **key).rowcount == 1:
            return "first"
        return "done" if engine.run(session, "find", **key).fetchone() else "too old"
    try:
        engine.run(session, "enter", **key)
    except engine.Duplicate:
        return "done"
    return "too old" if engine.run(session, "too old", consumer=consumer, id=tx).fetchone() else "first"


def consume(engine, session, tx, end="COMMIT", **key):
    begin(engine, session)
    found = enter(engine, session, tx, **key)
    if found == "first":
        engine.execute(session, "UPDATE account SET points = points + 1")
    engine.execute(session, end if found == "first" else "ROLLBACK")
    return found


def test_once(engine, one, two):
    tx, before = uuid7(), points(engine)
    assert [consume(engine, s, tx) for s in (one, two, one)] == ["first", "done", "done"]
    assert consume(engine, one, tx, n=1) == "first" and consume(engine, one, tx, consumer="stock") == "first"
    assert points(engine) == before + 3


def test_rolled_back_is_not_done(engine, one, two):
    tx, before = uuid7(), points(engine)
    assert consume(engine, one, tx, end="ROLLBACK") == "first"
    assert consume(engine, two, tx) == "first" and points(engine) == before + 1


@pytest.mark.parametrize("end, second", [("COMMIT", "done"), ("ROLLBACK", "first")])
def test_two_at_once(engine, one, two, end, second):
    tx, before, found = uuid7(), points(engine), []
    begin(engine, one)
    assert enter(engine, one, tx) == "first"
    engine.execute(one, "UPDATE account SET points = points + 1")
    thread = threading.Thread(target=lambda: found.append(consume(engine, two, tx)))
    thread.start()
    engine.wait_blocked(two)
    engine.execute(one, end)
    thread.join()
    assert found == [second] and points(engine) == before + 1


def test_pruned(engine, one):
    old, young, late = uuid7(-40 * DAY), uuid7(-20 * DAY), uuid7(-35 * DAY)
    assert [consume(engine, one, tx, consumer="p") for tx in (old, young)] == ["first"] * 2
    assert engine.run(one, "prune erase", consumer="p").rowcount == 0
    engine.run(one, "prune announce", consumer="p")
    assert consume(engine, one, old, consumer="p") == "done" # announced only
    assert consume(engine, one, late, consumer="p") == "too old"
    assert engine.run(one, "prune erase", consumer="p").rowcount == 1
    engine.run(one, "prune announce", consumer="p")
    assert consume(engine, one, old, consumer="p") == "too old"
    assert consume(engine, one, young, consumer="p") == "done"
    assert consume(engine, one, old, consumer="others") == "first"
