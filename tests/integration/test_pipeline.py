"""Pipeline: many operations in flight on one stream, results by tag, within credit."""

import contextlib
import itertools
import os
import pathlib
import re
import threading

import grpc
import pytest
from harness.client import (CANCELLED, CONFIRMED, PREPARED, Client, error_of, message, prepare_request, publish_request,
                            refused, result_error, result_state, service_pb2)
from harness.ids import uuid7
from harness.pipeline import Pipe
from servers.process import wait_until

CREDIT = 64
OPTIONS = {"pipeline.credit": CREDIT, "pipeline.streams": 8, "pipeline.in_flight": 96}


@pytest.fixture(scope="module")
def topic(world):
    return world.topic(nowhere={"discard": {}})


@pytest.fixture
def pipe(client):
    pipe = Pipe(client)
    yield pipe
    pipe.cancel()


def confirm(tx, **fields):
    return service_pb2.ConfirmRequest(transaction_id=tx, **fields)


def cancel(tx, **fields):
    return service_pb2.CancelRequest(transaction_id=tx, **fields)


def prepare(topic, tx, body=b"body", **fields):
    return prepare_request([message(topic, body)], tx=tx, **fields)


def ended_with(pipe, code, reason):
    error = error_of(pipe.wait_end())
    assert (error.code, error.reason) == (code, reason), error
    return error


def test_credit_comes_first(pipe):
    wait_until(lambda: pipe.frames, 10, "the first frame")
    assert pipe.frames == [(0, CREDIT)]
    pipe.close()
    assert pipe.frames == [(0, CREDIT)]


def test_each_has_its_own_result(client, topic, pipe):
    known, other, mine = uuid7(), uuid7(), uuid7()
    client.prepare([message(topic)], tx=known)
    client.prepare([message(topic)], tx=other)
    client.cancel(other)
    results = pipe.run([
        prepare(topic, mine), prepare("no-such-topic", uuid7()),
        prepare_request([message(topic, key=b"k" * 256)], tx=uuid7()), prepare(topic, known, b"other"),
        confirm(uuid7()), confirm(known), confirm(other), cancel("words"),
        publish_request([message(topic)], tx=uuid7()), prepare(topic, uuid7(-30 * 3600)),
        cancel(uuid7(), producer="shop", reason="it failed"),
    ])
    assert result_state(results[0]) == PREPARED and results[0].status.transaction_id == mine
    found = [(i, result_error(r).code, result_error(r).reason) for i, r in enumerate(results)
             if r.WhichOneof("result") == "error"]
    assert found == [
        (1, "NOT_FOUND", "TOPIC_NOT_FOUND"), (2, "INVALID_ARGUMENT", "INVALID_FIELD"),
        (3, "ALREADY_EXISTS", "CONTENT_DIFFERS"), (4, "NOT_FOUND", "TRANSACTION_NOT_FOUND"),
        (6, "FAILED_PRECONDITION", "DECIDED_OTHERWISE"), (7, "INVALID_ARGUMENT", "INVALID_FIELD"),
        (9, "INVALID_ARGUMENT", "ID_TIME_OUT_OF_WINDOW")]
    assert result_state(results[5]) == result_state(results[8]) == CONFIRMED
    assert result_state(results[10]) == CANCELLED
    view = client.get(results[10].status.transaction_id)
    assert (view.state, view.reason) == (CANCELLED, "it failed")
    pipe.close()


def test_the_same_answers_as_single_calls(client, topic, pipe):
    """Status and errors are those of Prepare, Confirm and Cancel, to the byte where nothing depends on the moment."""
    tx = uuid7()
    for request, single in ((prepare(topic, tx), client.messages.Prepare), (confirm(tx), client.messages.Confirm)):
        piped, unary = pipe.run([request])[0], single(request, timeout=30).status
        assert piped.status.transaction_id == tx and piped.status.state == unary.state
        again = pipe.run([request])[0]
        assert again.status == single(request, timeout=30).status
    with pytest.raises(grpc.RpcError) as caught:
        client.cancel(tx)
    wanted, got = error_of(caught.value), result_error(pipe.run([cancel(tx)])[0])
    assert vars(got) == vars(wanted)


def test_operations_on_one_id_run_in_order(topic, pipe):
    a, b, c, d = (uuid7() for _ in range(4))
    results = pipe.run([
        prepare(topic, a), confirm(a), confirm(a), cancel(a),
        confirm(b), prepare(topic, b), cancel(b), prepare(topic, b),
        prepare(topic, c), prepare(topic, c, b"other"), confirm(c),
        cancel(d, producer="shop"), prepare(topic, d),
    ], frame=3)
    shown = [result_state(r) if r.WhichOneof("result") == "status" else result_error(r).reason for r in results]
    assert shown == [
        PREPARED, CONFIRMED, CONFIRMED, "DECIDED_OTHERWISE",
        "TRANSACTION_NOT_FOUND", PREPARED, CANCELLED, CANCELLED,
        PREPARED, "CONTENT_DIFFERS", CONFIRMED,
        CANCELLED, "DECIDED_OTHERWISE"]


def test_thousands_on_a_few_streams(world, client, topic):
    """Each operation is answered once, whatever the frames; the whole credit comes back."""
    pipes = [Pipe(client) for _ in range(4)]
    ids = [[uuid7() for _ in range(500)] for _ in pipes]
    faults = []

    def drive(pipe, mine):
        try:
            for results, state in ((pipe.run([prepare(topic, tx) for tx in mine], frame=7), PREPARED),
                                   (pipe.run([confirm(tx) for tx in mine], frame=50), CONFIRMED)):
                assert [r.status.transaction_id for r in results] == mine
                assert {result_state(r) for r in results} == {state}
        except Exception as error: # of another thread
            faults.append(error)

    threads = [threading.Thread(target=drive, args=pair) for pair in zip(pipes, ids)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    for pipe in pipes:
        pipe.close()
        assert pipe.credit == CREDIT
    count = world.sql("SELECT count(*) FROM decision WHERE tx = ANY(%s::uuid[])", [tx for mine in ids for tx in mine])
    assert count[0][0] == 2000


def test_one_reply_frame_for_a_group_commit(topic, pipe):
    """What one frame brings goes into one commit, and comes back in one frame."""
    pipe.run([prepare(topic, uuid7())])
    before = len(pipe.frames)
    results = pipe.run([prepare(topic, uuid7()) for _ in range(50)], frame=50)
    assert {result_state(r) for r in results} == {PREPARED}
    assert pipe.frames[before:] == [(50, 50)]


def test_half_close_answers_what_is_open(topic, pipe):
    wait_until(lambda: pipe.credit == CREDIT, 10, "the first credit")
    tags = pipe.send([publish_request([message(topic)], tx=uuid7()) for _ in range(CREDIT)])
    pipe.half_close()
    assert pipe.wait_end() is None
    assert {result_state(r) for r in pipe.wait(tags)} == {CONFIRMED}


def test_a_tag_in_flight_is_refused(client, topic):
    """The later of the two; the tag may be used again once it was answered."""
    operations = [service_pb2.TaggedOperation(tag=tag, operation=service_pb2.Operation(prepare=prepare(topic, uuid7())))
                  for tag in (7, 7, 8)]
    answered = threading.Event()

    def frames():
        yield service_pb2.PipelineRequest(operations=operations)
        answered.wait(30)
        yield service_pb2.PipelineRequest(operations=operations[1:2])

    results = []
    for frame in client.messages.Pipeline(frames(), timeout=60):
        results += frame.results
        if len(results) >= 3:
            answered.set()
    assert sorted(r.tag for r in results) == [7, 7, 7, 8]
    errors = [result_error(r.result) for r in results if r.result.WhichOneof("result") == "error"]
    assert [(e.code, e.reason, list(e.fields)) for e in errors] == [("INVALID_ARGUMENT", "INVALID_FIELD", ["tag"])]


def test_beyond_the_credit(client, topic, pipe):
    """Exactly the operations beyond it are refused, and nothing of them is stored; the stream goes on."""
    wait_until(lambda: pipe.credit == CREDIT, 10, "the first credit")
    ids = [uuid7() for _ in range(CREDIT + 20)]
    results = pipe.wait(pipe.send([prepare(topic, tx) for tx in ids]))
    assert {result_state(r) for r in results[:CREDIT]} == {PREPARED}
    for tx, result in zip(ids[CREDIT:], results[CREDIT:]):
        error = result_error(result)
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        with refused("NOT_FOUND", "TRANSACTION_NOT_FOUND"):
            client.get(tx)
    assert sum(credit for _, credit in pipe.frames) == 2 * CREDIT, "what was refused gives no credit back"
    pipe.credit += 20
    assert result_state(pipe.run([prepare(topic, ids[-1])])[0]) == PREPARED
    pipe.close()


@pytest.mark.parametrize("count", [0, 1001])
def test_frame_of_a_wrong_size_ends_the_stream(topic, pipe, count):
    """What came before it is answered first."""
    good = pipe.send([prepare(topic, uuid7())])
    pipe.send([prepare(topic, uuid7())] * count)
    error = ended_with(pipe, "INVALID_ARGUMENT", "INVALID_FIELD")
    assert "operations" in error.fields
    assert result_state(pipe.wait(good)[0]) == PREPARED


def test_frame_that_is_no_text_ends_the_stream(client, topic):
    tx = uuid7()
    good = service_pb2.PipelineRequest(operations=[service_pb2.TaggedOperation(
        tag=1, operation=service_pb2.Operation(prepare=prepare(topic, tx)))]).SerializeToString()
    call = client.channel.stream_stream("/txmsg.v1.MessageService/Pipeline", request_serializer=lambda b: b,
                                        response_deserializer=service_pb2.PipelineResponse.FromString)(
        iter([good, good.replace(b"shop", b"sh\xffp")]), timeout=30)
    results = []
    with refused("INVALID_ARGUMENT", "INVALID_TEXT") as caught:
        for frame in call:
            results += frame.results
    assert "operations[0].operation.prepare.producer" in caught.error.fields
    assert [r.tag for r in results] == [1]
    assert client.get(tx).state == PREPARED


def test_operation_without_content(topic, pipe):
    results = pipe.wait(pipe.send([None, prepare(topic, uuid7())]))
    assert result_error(results[0]).code == "INVALID_ARGUMENT"
    assert result_state(results[1]) == PREPARED


def test_client_that_goes_away(world, client, topic):
    """What it sent is done or not, each as a whole; nothing else suffers, and its place is free again."""
    for _ in range(20):
        gone = Pipe(Client(world.txmsgd.grpc))
        wait_until(lambda: gone.credit == CREDIT, 10, "the first credit")
        ids = [uuid7() for _ in range(CREDIT)]
        gone.send([publish_request([message(topic)], tx=tx) for tx in ids])
        gone.cancel()
    again = Pipe(client)
    results = again.run([publish_request([message(topic)], tx=tx) for tx in ids])
    assert {result_state(r) for r in results} == {CONFIRMED}
    again.close()


def test_too_many_streams(client):
    def full():
        """grpcio opens streams as they come, so wait until the eight are there."""
        return all(p.frames for p in pipes)

    pipes = [Pipe(client) for _ in range(8)]
    wait_until(full, 20, "eight streams")
    ended_with(Pipe(client), "RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS")
    for pipe in pipes:
        pipe.close()

    def opened():
        one = Pipe(client)
        wait_until(lambda: one.frames or one.ended, 10, "an answer")
        one.cancel()
        return bool(one.frames)

    wait_until(opened, 20, "a place is free again")


def resident_mib(daemon):
    status = pathlib.Path(f"/proc/{daemon.process.popen.pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


class TestEnds:
    """The server goes away, politely or not; each test has a replica of its own."""

    @pytest.fixture
    def other(self, world):
        daemon = world.daemon(world.unique("other"))
        daemon.start()
        yield daemon
        with contextlib.suppress(Exception):
            daemon.close()

    def test_reader_that_stalls(self, world, topic):
        """It floods beyond its credit and takes no answer: it is read no further, others go on at once, memory stays,
        and in the end it is cut off."""
        daemon = world.daemon(world.unique("stalled"), {"grpc.reply_timeout": "5s", "pipeline.credit": 1000}).start()
        frame = service_pb2.PipelineRequest(operations=[
            service_pb2.TaggedOperation(tag=i, operation=service_pb2.Operation(confirm=confirm("words")))
            for i in range(1, 1001)])
        sent = itertools.count()

        def flood():
            while next(sent) < 100_000:
                yield frame

        stalled = Client(daemon.grpc)
        call = stalled.messages.Pipeline(flood()) # nobody reads from it
        other = Client(daemon.grpc)
        for _ in range(5):
            pipe = Pipe(other)
            results = pipe.run([publish_request([message(topic)], tx=uuid7()) for _ in range(300)])
            assert {result_state(r) for r in results} == {CONFIRMED}
            pipe.close()
        assert resident_mib(daemon) < (800 if "ASAN_OPTIONS" in os.environ else 200)
        cut = 'txmsg_requests_total{method="Pipeline",code="CANCELLED"} 1'
        wait_until(lambda: cut in daemon.get("/metrics")[1], 60, "it is cut off")
        assert call.is_active(), "for its client does not even read that it ended"
        assert next(sent) < 5000, "it was read although it did not read"
        stalled.close()
        daemon.close()

    def test_drain(self, world, client, topic, other):
        """SIGTERM: what is under way is answered, the stream says so, and the same ids are right elsewhere."""
        pipe = Pipe(Client(other.grpc))
        ids = [uuid7() for _ in range(3000)]
        results = {}

        def drive():
            for tx, result in zip(ids, pipe.run([publish_request([message(topic)], tx=tx) for tx in ids], frame=16)):
                results[tx] = result

        thread = threading.Thread(target=drive)
        thread.start()
        wait_until(lambda: len(pipe.results) > 200, 20, "it runs")
        stopper = threading.Thread(target=other.stop)
        stopper.start()
        ended_with(pipe, "UNAVAILABLE", "SHUTTING_DOWN")
        thread.join()
        stopper.join()
        answered = [tx for tx, r in results.items() if r is not None]
        assert answered and {result_state(results[tx]) for tx in answered} == {CONFIRMED}
        assert len(answered) < len(ids), "it ended before all was sent"
        again = Pipe(client)
        for result in again.run([publish_request([message(topic)], tx=tx) for tx in ids]):
            assert result_state(result) == CONFIRMED
        again.close()
        assert world.sql("SELECT count(*) FROM decision WHERE tx = ANY(%s::uuid[])", ids)[0][0] == len(ids)

    def test_kill(self, world, client, topic, other):
        """kill -9 in the middle: every OK is stored, and a repeat of everything under the same ids ends it all."""
        pipe = Pipe(Client(other.grpc))
        ids = [uuid7() for _ in range(3000)]
        results = {}

        def drive():
            for tx, result in zip(ids, pipe.run([publish_request([message(topic)], tx=tx) for tx in ids], frame=16)):
                results[tx] = result

        thread = threading.Thread(target=drive)
        thread.start()
        wait_until(lambda: len(pipe.results) > 200, 20, "it runs")
        other.kill()
        assert pipe.wait_end().code() == grpc.StatusCode.UNAVAILABLE
        thread.join()
        for tx in [tx for tx, r in results.items() if r is not None]:
            assert client.get(tx).state == CONFIRMED
        again = Pipe(client)
        for result in again.run([publish_request([message(topic)], tx=tx) for tx in ids]):
            assert result_state(result) == CONFIRMED
        again.close()
