"""PostgreSQL goes away, freezes, or is too slow: nothing is answered OK that is not stored, and recovery needs nobody."""

import concurrent.futures
import contextlib
import os
import signal
import threading

import grpc
import pytest
from harness import rounds
from harness.client import (CONFIRMED, DEADLINE, Client, error_of, message, prepare_request, publish_request, result_error)
from harness.drive import Drive
from harness.ids import uuid7
from harness.peers import Proxy
from harness.world import POSTGRES
from servers.postgres import Postgres
from servers.process import ServerError, wait_until


@pytest.fixture(scope="module")
def world(site):
    """A world with a PostgreSQL of its own, behind a proxy."""
    postgres = Postgres(site.base / "postgres-outage", POSTGRES).start()
    proxy = Proxy(postgres.port)
    made = site.world("outage", {"store.statement_timeout": "2s"}, postgres=postgres, tcp_port=proxy.port)
    made.proxy = proxy
    made.start()
    try:
        yield made
    finally:
        made.close()
        proxy.close()
        postgres.close()


@pytest.fixture
def topic(world):
    def made():
        try:
            return world.topic(nowhere={"discard": {}})
        except ServerError:
            return None # some connections of the daemon are still waiting to try again after the test before

    topic = wait_until(made, 20, "a topology is applied")
    yield topic
    world.proxy.mend()
    world.proxy.target = world.postgres.port
    works_again(world, topic)


def works_again(world, topic):
    def publishes():
        try:
            return world.client.messages.Publish(publish_request([message(topic)], tx=uuid7()), timeout=5)
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED,
                                    grpc.StatusCode.DEADLINE_EXCEEDED), error
            return None

    wait_until(publishes, 30, "the service works again")
    wait_until(lambda: world.txmsgd.get("/readyz")[0] == 200, 10, "and says so")


def refused_by_outage(world, topic, timeout=DEADLINE):
    with pytest.raises(grpc.RpcError) as caught:
        world.client.messages.Publish(publish_request([message(topic)], tx=uuid7()), timeout=timeout)
    error = error_of(caught.value)
    assert (error.code, error.reason) in {("UNAVAILABLE", "STORE_UNAVAILABLE"), ("UNAVAILABLE", "OUTCOME_UNKNOWN")}, error
    return error


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "crash"])
def test_restart_of_postgres(world, topic, how):
    kept = world.client.publish([message(topic)], tx=uuid7()).transaction_id
    world.postgres.stop(how)
    refused_by_outage(world, topic)
    wait_until(lambda: world.txmsgd.get("/readyz")[0] == 503, 20, "readyz says no")
    assert world.txmsgd.get("/healthz")[0] == 200
    with pytest.raises(grpc.RpcError) as caught:
        world.client.get(kept)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    world.postgres.start()
    world.proxy.target = world.postgres.port
    works_again(world, topic)
    assert wait_until(lambda: state_of(world, kept), 20, "reads work again") == CONFIRMED


def state_of(world, tx):
    try:
        return world.client.get(tx).state
    except grpc.RpcError as error:
        assert error_of(error).code == "UNAVAILABLE"
        return None


def test_connections_are_cut(world, topic):
    world.proxy.cut()
    refused_by_outage(world, topic)
    world.proxy.mend()
    works_again(world, topic)


def test_cut_under_load_loses_no_ok(world, topic):
    """Connections are cut again and again, some in the middle of a commit. What was answered OK is stored; what ended
    otherwise can be repeated under its id and ends well, as one row."""
    stop, lock, acknowledged = threading.Event(), threading.Lock(), set()

    def produce():
        client = Client(world.txmsgd.grpc)
        while not stop.is_set():
            tx = uuid7()
            for _ in range(400):
                try:
                    client.messages.Publish(publish_request([message(topic, tx)], tx=tx), timeout=10)
                    break
                except grpc.RpcError as error:
                    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), error
                    stop.wait(0.02)
            else:
                raise AssertionError(f"{tx} never ended well")
            with lock:
                acknowledged.add(tx)
        client.close()

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        producers = [pool.submit(produce) for _ in range(6)]
        try:
            for _ in range(rounds(6)):
                goal = len(acknowledged) + 100
                wait_until(lambda goal=goal: len(acknowledged) >= goal, 40, "producers get on")
                world.proxy.cut(refuse=False)
        finally:
            stop.set()
        for p in producers:
            p.result(timeout=60)
    stored = {str(row[0]) for row in world.sql("SELECT tx FROM decision WHERE verdict = 1")}
    assert acknowledged <= stored
    twice = world.sql("SELECT id, count(*) FROM (SELECT unnest(conf) AS id FROM lane_log) l GROUP BY id HAVING count(*) > 1")
    assert not twice, "a transaction was confirmed by two entries of the log"


def test_frozen_postgres(world, topic):
    """A database that hangs is an outage too: callers hear of it at their deadline or before, and it passes."""
    world.postgres.process.signal(signal.SIGSTOP)
    children = [int(row) for row in pids_of(world.postgres.process.pid)]
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(grpc.RpcError) as caught:
            world.client.messages.Publish(publish_request([message(topic)], tx=uuid7()), timeout=3)
        assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    finally:
        for pid in [*children, world.postgres.process.pid]:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
    works_again(world, topic)


def test_read_only(world, topic):
    """A database made read-only, or a standby: nothing is stored and callers hear so. When it may be written again nobody has to end
    the sessions that began meanwhile, which stay read-only for as long as they last."""
    world.sql(f'ALTER DATABASE "{world.name}" SET default_transaction_read_only = on')
    try:
        world.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                  " WHERE datname = current_database() AND pid <> pg_backend_pid()")

        wait_until(lambda: "25006" in world.txmsgd.log.read_text(encoding="utf-8"), 30, "the log says why")
        wait_until(lambda: world.txmsgd.get("/readyz")[0] == 503, 30, "readyz says no")
        refused_by_outage(world, topic)
    finally:
        world.sql(f'ALTER DATABASE "{world.name}" RESET default_transaction_read_only')
    works_again(world, topic)


def pids_of(parent):
    with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as f:
        return f.read().split()


def test_commits_wait_and_beats_do_not(world, topic):
    """No commit can end, for want of a synchronous standby: callers hear that nobody knows, the worker does not take itself for dead,
    and what was under way is found when commits end again."""
    def beat():
        return world.sql("SELECT max(beat) FROM worker")[0][0]

    def silences():
        return world.txmsgd.log.read_text(encoding="utf-8").count("no heartbeat got through")

    before = silences()
    tx = uuid7()
    try:
        world.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        world.sql("SELECT pg_reload_conf()")
        wait_until(lambda: world.sql("SHOW synchronous_standby_names")[0][0] == "nobody", 10, "the server has read it")

        def waits():
            nonlocal tx
            tx = uuid7()
            try:
                world.client.messages.Publish(publish_request([message(topic)], tx=tx), timeout=2)
            except grpc.RpcError as error:
                assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), error
                return True
            return None # this backend had not read the setting yet

        wait_until(waits, 30, "a commit waits for the standby")
        begin = beat()
        wait_until(lambda: beat() >= begin + 8, 60, "beats go on")
        wait_until(lambda: world.txmsgd.get("/readyz")[0] == 503, 30, "readyz says that nothing can be stored")
        assert silences() == before
        assert world.sql("SELECT count(*) FROM lane WHERE state = 'open'")[0][0] == 1
    finally:
        world.sql("ALTER SYSTEM RESET synchronous_standby_names")
        world.sql("SELECT pg_reload_conf()")
    works_again(world, topic)
    wait_until(lambda: state_of(world, tx) == CONFIRMED, 30, "the one that waited is stored")


def test_batch_during_an_outage(world, topic):
    """Each operation says for itself that it was not stored."""
    world.proxy.cut()
    try:
        results = world.client.batch([publish_request([message(topic)], tx=uuid7()) for _ in range(3)])
    except grpc.RpcError as error:
        assert error_of(error).code == "UNAVAILABLE"
    else:
        assert {result_error(r).code for r in results} == {"UNAVAILABLE"}
    finally:
        world.proxy.mend()


# --- seen through libtxmsg ---

streams_or_calls = pytest.mark.parametrize("unary", [0, 1], ids=["stream", "unary"])


@contextlib.contextmanager
def down(world, topic, how=signal.SIGINT):
    world.postgres.stop(how)
    try:
        refused_by_outage(world, topic)
        yield
    finally:
        world.postgres.start()
        world.proxy.target = world.postgres.port


def hold_commits(world):
    """Until PostgreSQL stops: what is sent meanwhile is in flight then."""
    world.sql("BEGIN; LOCK TABLE lane_log IN SHARE MODE")
    return lambda: world.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")[0][0] > 0


def stored(world, topic):
    return world.sql("SELECT count(*) FROM message WHERE topic = %s", topic)[0][0]


@streams_or_calls
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "crash"])
def test_the_library_repeats_until_it_is_back(world, topic, how, unary):
    """Some calls are in flight when PostgreSQL stops, some begin while it is away. All are repeated under their ids within their
    deadline: each ends OK, and is stored once."""
    own = world.topic(nowhere={"discard": {}})
    with Drive(world.txmsgd.grpc, unary=unary, timeout=120000) as early, \
            Drive(world.txmsgd.grpc, unary=unary, timeout=120000) as late:
        waits = hold_commits(world)
        early.tell("threads", 16, 50, own)
        wait_until(waits, 30, "some are in flight")
        with down(world, topic, how):
            late.tell("threads", 4, 25, own)
            refused_by_outage(world, topic)
        assert early.hear() == {"OK": "800", "wrong": "0", "text": ""}
        assert late.hear() == {"OK": "100", "wrong": "0", "text": ""}
    works_again(world, topic)
    assert stored(world, own) == 900


@streams_or_calls
def test_the_library_gives_up_truly(world, topic, unary):
    """PostgreSQL stays away for longer than their deadline: what was in flight ends UNAVAILABLE or UNKNOWN, and each is true; what
    begins later is not executed, and what was executed is UNKNOWN until the same call is made again."""
    own = world.topic(nowhere={"discard": {}})
    with Drive(world.txmsgd.grpc, unary=unary, timeout=1500) as drive, \
            Drive(world.txmsgd.grpc, unary=unary, timeout=1500) as executing:
        tx = drive("prepare", "-", topic, "tea", 20000)["id"]
        executing.tell("transaction", "-", topic, "tea", "wait", 20000)
        begun = executing.hear()["id"]
        waits = hold_commits(world)
        drive.tell("flood", 500, own)
        wait_until(waits, 30, "some are in flight")
        with down(world, topic):
            ended = {k: int(v) for k, v in drive.hear().items() if v.isdigit()}
            done, unknown = ended.get("OK", 0), ended.get("UNKNOWN", 0)
            assert sum(ended.values()) == 500 == done + unknown + ended.get("UNAVAILABLE", 0)
            late = drive("transaction", "-", topic, "tea", "committed", 700)
            assert (late["status"], late["executed"]) in {("UNAVAILABLE", "0"), ("UNKNOWN", "0")}
            assert drive("get", tx, 700)["status"] == "UNAVAILABLE"
            assert drive("confirm", tx, 700)["status"] in {"UNAVAILABLE", "UNKNOWN"}
            executing.tell("go on") # it committed: nobody can be told
            wait_until(lambda: world.txmsgd.get("/readyz")[0] == 503, 20, "readyz says no")
        lost = executing.hear()
        assert (lost["status"], lost["executed"]) in {("OK", "1"), ("UNKNOWN", "1")} # within its 20 s, or not
        works_again(world, topic)
        assert done <= stored(world, own) <= done + unknown
        for id_ in (tx, begun):
            assert drive("confirm", id_, 20000)["status"] == "OK"


def test_starts_before_its_database(world, topic):
    """A daemon that starts while the database is away comes up by itself when the database does, or ends with a clear
    line for whoever starts it again."""
    world.proxy.cut()
    late = world.daemon("late", dsn=world.postgres.dsn(world.name, port=world.proxy.port))
    try:
        late.start(ready=False)
    except Exception:
        assert late.process.popen.returncode == 1
        late.process = None
        world.proxy.mend()
        late.start()
    else:
        assert late.get("/readyz")[0] == 503
        world.proxy.mend()
        late.wait_ready()
    assert late.stop() == 0


def test_mailbox_is_bounded(site):
    """With a tiny queue a burst is refused before acceptance, with a time to come back; what was accepted is stored."""
    small = site.world("overload", {"lane.queue": "64"}).start()
    try:
        topic = small.topic(nowhere={"discard": {}})
        small.sql("BEGIN; LOCK TABLE lane_log IN SHARE MODE")
        futures = [small.client.messages.Prepare.future(prepare_request([message(topic)], tx=uuid7()), timeout=60)
                   for _ in range(1500)]

        def some_refused():
            return any(f.done() and f.code() == grpc.StatusCode.RESOURCE_EXHAUSTED for f in futures)

        wait_until(some_refused, 30, "a call is refused")
        small.sql("COMMIT")
        accepted, refusals = 0, 0
        for future in futures:
            try:
                future.result()
                accepted += 1
            except grpc.RpcError as error:
                found = error_of(error)
                if (found.code, found.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE"):
                    continue # on a slow machine the lock lasts longer than an operation waits for the store
                assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED"), found
                assert 0 < found.retry_seconds < 60
                refusals += 1
        assert accepted and refusals
        assert small.sql("SELECT count(*) FROM message")[0][0] == accepted
    finally:
        small.close()
