"""The schema changes under running daemons: a newer one that serves them, one that does not, and one that went back."""

import pytest
from harness.client import CONFIRMED, Client, message
from harness.ids import uuid7
from harness.world import metric
from servers.process import ServerError, wait_until


@pytest.fixture
def made(site):
    """A world of its own for each test; its daemons may end by themselves."""
    made = site.world("schema").start()
    yield made
    for daemon in made.closing:
        if getattr(daemon, "process", None) and not daemon.process.alive():
            daemon.process = None
    made.close()


def says(daemon, text):
    return text in daemon.log.read_text(encoding="utf-8", errors="replace")


def known(world):
    return world.sql("SELECT max(version) FROM txmsg_migration")[0][0]


def migrate(world, serves):
    version = known(world) + 1
    world.sql("INSERT INTO txmsg_migration (version, name, checksum, serves) VALUES (%s, 'future', 'of another release', %s)",
              version, serves)
    return version


def ends(daemon):
    assert wait_until(lambda: None if daemon.process.alive() else daemon.process.popen.returncode, 60, "it ends") == 1
    assert says(daemon, "draining, then this process ends") and says(daemon, "stopped"), "it went without draining"
    daemon.process = None


def refused_at_start(daemon, text):
    with pytest.raises(ServerError):
        daemon.start()
    assert daemon.process.popen.returncode == 1 and says(daemon, text)
    daemon.process = None


def test_newer_schema_that_serves(made):
    """Versions N and N+1 on one schema: who is older says so, and works; one more of it starts."""
    topic = made.topic(nowhere={"discard": {}})
    version = migrate(made, known(made))
    line = f"the database has schema {version}, this binary knows {version - 1}; it says that it serves this binary too"
    wait_until(lambda: says(made.txmsgd, line), 30, "the running one says it")
    second = made.daemon("second").start()
    wait_until(lambda: says(second, line), 30, "the new one says it")
    for daemon in (made.txmsgd, second):
        client = Client(daemon.grpc)
        tx = client.publish([message(topic)], tx=uuid7()).transaction_id
        assert client.get(tx).state == CONFIRMED
        client.close()
        assert (metric(daemon, "txmsg_schema", of="database"), metric(daemon, "txmsg_schema", of="binary")) == (version,
                                                                                                               version - 1)
    assert made.txmsgd.stop() == 0 and second.stop() == 0


def test_newer_schema_that_does_not_serve(made):
    topic = made.topic(nowhere={"discard": {}})
    tx = made.client.publish([message(topic)], tx=uuid7()).transaction_id
    version = migrate(made, known(made) + 1)
    ends(made.txmsgd)
    assert says(made.txmsgd, f"the database was migrated to schema {version}, this binary knows {version - 1}")
    assert made.sql("SELECT count(*) FROM decision WHERE tx = %s::uuid", tx)[0][0] == 1
    assert not made.sql("SELECT lane FROM lane WHERE state = 'open'"), "it left its lane open"
    refused_at_start(made.txmsgd, f"the database has schema {version}, this binary knows {version - 1} and cannot work on it")


@pytest.mark.parametrize("how", ["DELETE FROM txmsg_migration", "ALTER TABLE txmsg_migration RENAME TO gone"])
def test_schema_went_back(made, how):
    made.sql(how)
    ends(made.txmsgd)
    assert says(made.txmsgd, "the database went back to schema 0")
    refused_at_start(made.txmsgd, "txmsgctl migrate up")
