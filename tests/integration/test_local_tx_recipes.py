"""The SQL of client/local-transaction-record.md on PostgreSQL, MariaDB and SQLite: what the local transaction and the check
do to each other, whichever comes first."""

import threading

import pytest
from harness.engines import engine_fixture, session_fixture
from harness.ids import uuid7

PAGE = "local-transaction-record.md"
engine = engine_fixture(PAGE, "local_tx", "CREATE TABLE work (id char(36) PRIMARY KEY)")
local, other = session_fixture(), session_fixture()


def begin(engine, session, tx):
    """A local transaction that has recorded and works."""
    engine.execute(session, "BEGIN")
    engine.run(session, "record", id=tx)
    engine.execute(session, "INSERT INTO work VALUES (:id)", id=tx)


def check(engine, session, tx, wait=None):
    """As the page words it."""
    try:
        inserted = engine.run(session, "check begin", wait=wait, id=tx).rowcount == 1
    except engine.LockTimeout as error:
        engine.rollback(session)
        assert any(word in str(error).lower() for word in ("lock timeout", "lock wait timeout", "locked")), error
        return "UNKNOWN"
    if inserted and engine.run(session, "check pruned", id=tx).fetchone():
        engine.execute(session, "ROLLBACK")
        return "UNKNOWN"
    answer = "ROLLED_BACK" if inserted else engine.run(session, "check find", id=tx).fetchone()[0]
    engine.execute(session, "COMMIT")
    return answer


def works(engine, tx):
    return engine.execute(engine.session(), "SELECT count(*) FROM work WHERE id = :id", id=tx).fetchone()[0]


def test_committed(engine, local, other):
    tx = uuid7()
    begin(engine, local, tx)
    engine.execute(local, "COMMIT")
    assert [check(engine, other, tx) for _ in range(2)] == ["COMMITTED"] * 2


def test_rolled_back(engine, local, other):
    tx = uuid7()
    begin(engine, local, tx)
    engine.execute(local, "ROLLBACK")
    assert [check(engine, other, tx) for _ in range(2)] == ["ROLLED_BACK"] * 2


def test_late_commit_fails(engine, local, other):
    tx = uuid7()
    assert check(engine, other, tx) == "ROLLED_BACK"
    engine.execute(local, "BEGIN")
    engine.execute(local, "INSERT INTO work VALUES (:id)", id=tx)
    with pytest.raises(engine.Duplicate):
        engine.run(local, "record", id=tx)
    engine.execute(local, "ROLLBACK")
    assert works(engine, tx) == 0 and check(engine, other, tx) == "ROLLED_BACK"


def test_still_running_is_unknown(engine, local, other):
    tx = uuid7()
    begin(engine, local, tx)
    assert check(engine, other, tx) == "UNKNOWN"
    engine.execute(local, "COMMIT")
    assert check(engine, other, tx) == "COMMITTED" and works(engine, tx) == 1


@pytest.mark.parametrize("end, answer", [("COMMIT", "COMMITTED"), ("ROLLBACK", "ROLLED_BACK")])
def test_check_waits(engine, local, other, end, answer):
    tx, answers = uuid7(), []
    begin(engine, local, tx)
    thread = threading.Thread(target=lambda: answers.append(check(engine, other, tx, wait=30)))
    thread.start()
    engine.wait_blocked(other)
    engine.execute(local, end)
    thread.join()
    assert answers == [answer] and works(engine, tx) == (end == "COMMIT")


def test_pruned(engine, local, other):
    day = 86400
    old, young, never = uuid7(-40 * day), uuid7(-20 * day), uuid7(-35 * day)
    for tx in (old, young):
        begin(engine, local, tx)
        engine.execute(local, "COMMIT")
    engine.run(other, "prune erase")
    engine.run(other, "prune announce")
    assert check(engine, other, old) == "COMMITTED" # announced only
    assert check(engine, other, never) == "UNKNOWN"
    assert engine.run(other, "prune erase").rowcount == 1
    engine.run(other, "prune announce")
    assert check(engine, other, old) == "UNKNOWN"
    assert check(engine, other, young) == "COMMITTED"
    assert check(engine, other, uuid7(-20 * day)) == "ROLLED_BACK"
