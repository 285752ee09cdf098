"""Three replicas on one PostgreSQL. One of them is killed, stopped, or cut off from the database: what it had promised goes on at a
survivor, and when it comes back it changes nothing."""

import threading
import time

import grpc
import pytest
from harness import rounds
from harness.client import (CHECK, CONFIRMED, DELIVERY, Client, message, prepare_request, publish_request, service_pb2)
from harness.ids import uuid7
from harness.peers import Proxy, Reply
from harness.world import metric, subscription
from servers.process import wait_until

DELIVERED = DELIVERY["DELIVERED"]
IN_FLIGHT, UNDELIVERED = 16, 40 # concurrency of the subscription; messages confirmed


@pytest.fixture(scope="module")
def world(site):
    """The daemon of this world reaches PostgreSQL through a proxy; two more replicas do not."""
    proxy = Proxy(site.postgres.port)
    made = site.world("replicas", tcp_port=proxy.port)
    made.proxy = proxy
    made.start()
    made.others = [made.daemon(name, dsn=made.dsn).start() for name in ("second", "third")]
    try:
        yield made
    finally:
        proxy.mend()
        made.close()
        proxy.close()


@pytest.fixture
def place(world):
    """A topic whose sink may hold requests for long, and a producer with a check endpoint."""
    sink, endpoint = world.sink(), world.check_endpoint()
    topic, producer = world.unique("t"), world.unique("shop")
    http = {"http": {"url": sink.url("/hook"), "timeout": "60s"}}
    world.apply(topics=[topic], subscriptions=[subscription(topic, topic, http, concurrency=IN_FLIGHT)], producers=[
        {"name": producer, "check": {"endpoints": [endpoint.url("/check")], "first_after": "3s", "initial": "1s", "factor": 1,
                                     "max": "1s", "timeout": "1s", "max_unknowns": 100}}])
    return topic, producer, sink, endpoint


def open_lane_of(world, tx):
    """The lane that holds this confirmed transaction."""
    return world.sql("SELECT lane FROM lane_log WHERE %s::uuid = ANY (conf)", tx)[0][0]


def books(world, lane):
    """What is stored of a lane below its seal, and everything that was decided."""
    return (world.sql("SELECT seq, kind, nonce, prep::text, conf::text FROM lane_log WHERE lane = %s AND kind IN ('D', 'N', 'S') "
                      "ORDER BY seq", lane), world.sql("SELECT tx, verdict, lane, seq FROM decision ORDER BY tx"))


def counted(world, topic):
    """Deliveries of a subscription by the counters in the lanes."""
    return world.sql(
        "SELECT coalesce(sum(sub_cnt[i + 1]), 0)::int FROM lane_log, generate_series(1, coalesce(array_length(sub_cnt, 1), 0), 5) "
        "i WHERE sub_cnt[i] = (SELECT id FROM subscription WHERE name = %s)", topic)[0][0]


FAULTS = {"kill -9": lambda world: world.txmsgd.kill(), "SIGSTOP": lambda world: world.txmsgd.freeze(),
          "partition": lambda world: world.proxy.hole()}


def come_back(world, fault):
    if fault == "kill -9":
        world.txmsgd.start()
    elif fault == "SIGSTOP":
        world.txmsgd.thaw()
    else:
        world.proxy.mend()


@pytest.mark.parametrize("fault", FAULTS)
def test_survivors_go_on(world, place, fault):
    topic, producer, sink, endpoint = place
    held = threading.Event()
    sink.reply = Reply(200, held=held)
    confirmed, open_ = [uuid7() for _ in range(UNDELIVERED)], uuid7()
    survivor = Client(world.others[0].grpc)
    try:
        world.client.batch([publish_request([message(topic, tx)], tx=tx, producer=producer) for tx in confirmed])
        world.client.prepare([message(topic, open_)], tx=open_, producer=producer)
        endpoint.decide(open_, "COMMITTED")
        sink.wait(IN_FLIGHT)
        lane = open_lane_of(world, confirmed[0])
        duplicates = metric(world.txmsgd, "txmsg_possible_duplicates_total")
        taken = sum(metric(d, "txmsg_lane_takeovers_total") for d in world.others)
        sink.reply = Reply(200) # the victim has as many in flight as it may, and those are held
        began = time.monotonic()
        FAULTS[fault](world)

        def delivered(tx):
            view = survivor.get(tx)
            return view.state == CONFIRMED and view.messages[0].deliveries[0].state == DELIVERED

        wait_until(lambda: delivered(confirmed[-1]), 60, "a survivor delivers what was confirmed")
        undelivered_s = time.monotonic() - began
        wait_until(lambda: all(map(delivered, confirmed)), 60, "and all of it")
        wait_until(lambda: delivered(open_), 60, "a survivor asks for what was undecided, and delivers it")
        print(f"{fault}: the last confirmed delivered after {undelivered_s:.1f} s, the undecided after "
              f"{time.monotonic() - began:.1f} s")
        assert survivor.get(open_).origin == CHECK
        assert sum(metric(d, "txmsg_lane_takeovers_total") for d in world.others) > taken
        assert world.sql("SELECT state FROM lane WHERE lane = %s", lane)[0][0] != "open"
        before = books(world, lane)
        come_back(world, fault)
        held.set()
        wait_until(lambda: world.txmsgd.get("/readyz")[0] == 200, 60, "it serves again")
        after = wait_until(lambda: publishes(world, topic, producer), 60, "and takes calls")
        sink.wait_for(after)
        if fault != "kill -9":
            wait_until(lambda: metric(world.txmsgd, "txmsg_possible_duplicates_total") >= duplicates + IN_FLIGHT, 30,
                       "it counts what it sent and could not record")
        assert {tuple(row) for row in before[1]} <= {tuple(row) for row in books(world, lane)[1]}
        assert books(world, lane)[0] == before[0], "the lane below its seal is another one"
        ours = [*confirmed, open_, after]
        assert all(len(sink.of(tx)) in (1, 2) for tx in ours)
        assert len({r.body for r in sink.got()}) == len(ours), "a repeat brought other bytes"
        wait_until(lambda: counted(world, topic) == len(ours), 30,
                   f"each is counted once as delivered ({counted(world, topic)} of {len(ours)})")
    finally:
        held.set()
        world.proxy.mend()
        world.txmsgd.thaw() if world.txmsgd.process else world.txmsgd.start()
        survivor.close()


def publishes(world, topic, producer):
    tx = uuid7()
    try:
        return world.client.publish([message(topic, tx)], tx=tx, producer=producer).transaction_id
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED), error
        return None


def test_rolling_restart(world, place):
    """Every replica is stopped and started in turn under load. A client that repeats what was UNAVAILABLE, at the next replica, sees
    nothing else."""
    topic, producer, sink, _ = place
    replicas = [world.txmsgd, *world.others]
    stop, lock, done, others, turns = threading.Event(), threading.Lock(), [], [], []

    def produce(seat):
        clients, at = {}, seat

        def call(method, request):
            nonlocal at
            while not stop.is_set():
                target = replicas[at % len(replicas)].grpc
                client = clients.setdefault(target, None) or Client(target)
                clients[target] = client
                try:
                    return getattr(client.messages, method)(request, timeout=20)
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        others.append(error)
                    with lock:
                        turns.append(1)
                    at += 1
                    stop.wait(0.02)
            return None

        while not stop.is_set():
            tx = uuid7()
            if not call("Prepare", prepare_request([message(topic, tx)], tx=tx, producer=producer)):
                break
            if call("Confirm", service_pb2.ConfirmRequest(transaction_id=tx, producer=producer)):
                with lock:
                    done.append(tx)
        for client in clients.values():
            client.close()

    threads = [threading.Thread(target=produce, args=(i,), daemon=True) for i in range(6)]
    for t in threads:
        t.start()
    try:
        for _ in range(rounds(1)):
            for daemon in replicas:
                goal = len(done) + 100
                wait_until(lambda goal=goal: len(done) >= goal, 60, "producers get on")
                assert daemon.stop() == 0
                goal = len(done) + 100
                wait_until(lambda goal=goal: len(done) >= goal, 60, "producers get on without it")
                daemon.start()
    finally:
        stop.set()
        for t in threads:
            t.join(30)
    assert not others, others[:3]
    assert turns, "nobody met a replica that was going"
    wanted = set(done)
    wait_until(lambda: {r.headers["webhook-id"][:36] for r in sink.got()} >= wanted, 60, "everything that was confirmed arrives")
    states = {state for (state,) in world.sql("SELECT verdict FROM decision WHERE tx = ANY (%s::uuid[])", list(wanted))}
    assert states == {1}
    print(f"{len(done)} transactions, {len(turns)} repeats")
