"""`apply` connects to the endpoints of what is new or different, from where deliveries and checks will come, before anything changes."""

import json
import socket
import threading

import pika
import pytest
from harness.checks import CheckServer
from harness.client import refused
from harness.consumers import ConsumerServer
from harness.peers import Raw
from harness.world import subscription
from servers.process import free_port
from servers.txmsgd import to_yaml
from txmsg.v1 import admin_service_pb2 as admin_pb2, topology_pb2

TIME = 60 # seconds of a call


@pytest.fixture(scope="module")
def hole():
    """Takes connections and says nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    held = []

    def accept():
        try:
            while True:
                held.append(listener.accept()[0])
        except OSError:
            pass

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for connection in held:
        connection.close()


def topology(world, sink=None, endpoints=()):
    """A topic, a subscription and a producer, as YAML, and their common name."""
    name = world.unique("probed")
    whole = {"topics": [{"name": name}], "producers": [{"name": name, "check": {"endpoints": list(endpoints)}}]}
    if sink:
        whole["subscriptions"] = [subscription(name, name, sink)]
    return name, to_yaml(whole)


def stored(world, name):
    return world.sql("SELECT count(*) FROM producer WHERE name = %s", name)[0][0]


def probes(world, sink=None, endpoints=()):
    """What the service says of the endpoints, by endpoint."""
    name, text = topology(world, sink, endpoints)
    done = world.ctl.run("--json", "--timeout", f"{TIME}s", "apply", "--dry-run", "-f", "-", stdin=text, timeout=2 * TIME)
    assert done.returncode == 0 and not stored(world, name), done.stderr
    answer = json.loads(done.stdout)
    assert not answer.get("untried")
    return {p["endpoint"]: p.get("error", "") for p in answer["probes"]}


def test_good_endpoints_are_quiet(world):
    """A connection and no request: the peers have seen nothing."""
    sink, endpoint, checker, consumer = world.sink(), world.check_endpoint(), CheckServer(), ConsumerServer()
    try:
        name, text = topology(world, sink, [endpoint.url("/check"), checker.url])
        for words in (["--probe"], []):
            done = world.ctl.run("--timeout", f"{TIME}s", "apply", "-f", "-", *words, stdin=text)
            assert (done.returncode, done.stderr) == (0, ""), words
        assert stored(world, name)
        assert probes(world, {"grpc": {"endpoints": [consumer.url]}}) == {consumer.url: ""}
        assert not sink.got() and not endpoint.got() and not checker.checks and not consumer.requests
    finally:
        checker.close()
        consumer.close()


def test_bad_endpoint_is_a_warning_an_error_or_not_asked_for(world):
    """By default it is told and applied, with --probe nothing is changed, with --no-probe nobody connects."""
    nobody = f"http://127.0.0.1:{free_port()}/check"
    name, text = topology(world, {"http": {"url": nobody}}, [nobody])
    done = world.ctl.run("apply", "--probe", "-f", "-", stdin=text)
    assert (done.returncode, done.stdout) == (1, "") and not stored(world, name)
    assert f"error: producer {name}: cannot reach {nobody}: " in done.stderr and f"error: subscription {name}: " in done.stderr
    assert "nothing was changed" in done.stderr
    assert world.ctl.run("apply", "--dry-run", "-f", "-", stdin=text).stderr.count("warning: ") == 2 and not stored(world, name)
    done = world.ctl.run("apply", "-f", "-", stdin=text)
    assert done.returncode == 0 and stored(world, name) and done.stderr.count(f"cannot reach {nobody}") == 2
    again = world.ctl.run("apply", "--probe", "-f", "-", stdin=text)
    assert (again.returncode, again.stderr) == (0, ""), "what does not change is not tried"
    other, text = topology(world, {"http": {"url": nobody}})
    done = world.ctl.run("apply", "--no-probe", "-f", "-", stdin=text)
    assert (done.returncode, done.stderr) == (0, "") and stored(world, other)
    assert world.ctl.run("apply", "--no-probe", "--probe", "-f", "-", stdin=text).returncode == 2


def test_only_what_says_whom_to_connect_to(world):
    """Another retry policy is no reason to connect; another URL is."""
    nobody = [f"http://127.0.0.1:{free_port()}/" for _ in range(2)]
    name, text = topology(world, {"http": {"url": nobody[0]}})
    assert world.ctl.run("apply", "-f", "-", stdin=text).stderr.count("warning") == 1
    done = world.ctl.run("apply", "-f", "-", stdin=to_yaml({"subscriptions": [
        subscription(name, name, {"http": {"url": nobody[0]}}, retry={"max_attempts": 3})]}))
    assert (done.returncode, done.stderr) == (0, "") and "retry.max_attempts" in done.stdout
    done = world.ctl.run("apply", "-f", "-", stdin=to_yaml({"subscriptions": [subscription(name, name, {"http": {"url": nobody[1]}})]}))
    assert done.returncode == 0 and done.stderr.count("warning") == 1 and nobody[1] in done.stderr


def test_what_is_wrong_is_said(world, hole):
    """Nobody there, TLS that is none, another protocol, silence, no such name, an address that is never connected to."""
    plain = world.sink(reply=Raw(b"hello\r\n\r\n"))
    port = free_port()
    said = probes(world, {"grpc": {"endpoints": [f"grpc://127.0.0.1:{port}", f"grpc://127.0.0.1:{plain.port}", f"grpc://127.0.0.1:{hole}",
                                                 "grpc://no-such-host.invalid:1", "grpc://169.254.169.254:1"]}},
                  [f"http://127.0.0.1:{port}/", f"https://127.0.0.1:{plain.port}/", f"https://127.0.0.1:{hole}/",
                   "http://no-such-host.invalid/", "http://169.254.169.254/", f"http://127.0.0.1:{hole}/"])
    assert said.pop(f"http://127.0.0.1:{hole}/") == "", "a connection stands: HTTP says nothing before a request"
    assert all(said.values()), said
    assert "link-local" in said["http://169.254.169.254/"] and "link-local" in said["grpc://169.254.169.254:1"]
    assert "no-such-host.invalid" in said["grpc://no-such-host.invalid:1"]


def test_rabbitmq(world, site, hole):
    """Login, virtual host and exchange are tried; the password is not shown."""
    rabbit = site.rabbit
    connection = pika.BlockingConnection(pika.URLParameters(rabbit.url()))
    channel = connection.channel()
    channel.exchange_declare("probed", durable=True)
    before = connection.channel().queue_declare("", exclusive=True)
    assert before

    def error_of(url, **sink):
        (endpoint, error), = probes(world, {"rabbitmq": {"url": url, **sink}}).items()
        assert rabbit.password not in endpoint and "***" in endpoint and "wrong-word" not in endpoint
        return error

    try:
        assert error_of(rabbit.url()) == "" and error_of(rabbit.url(), exchange="probed") == ""
        assert "no exchange" in error_of(rabbit.url(), exchange="no-such-exchange")
        assert "403" in error_of(f"amqp://{rabbit.login}:wrong-word@127.0.0.1:{rabbit.port}")
        assert "530" in error_of(rabbit.url() + "/no-such-vhost")
        assert error_of(f"amqp://a:wrong-word@127.0.0.1:{free_port()}")
        assert error_of(f"amqp://a:wrong-word@127.0.0.1:{hole}")
        assert "link-local" in error_of("amqp://a:wrong-word@169.254.169.254:5672")
    finally:
        channel.exchange_delete("probed")
        connection.close()


def test_masked_password_is_the_stored_one(world, site):
    """An edited export is tried with what stands behind the mask."""
    name, text = topology(world, {"rabbitmq": {"url": site.rabbit.url(), "routing_key": "a"}})
    assert world.ctl.run("apply", "--probe", "-f", "-", stdin=text).returncode == 0
    exported = world.ctl("export")
    assert site.rabbit.password not in exported
    edited = exported.replace("routing_key: a", "routing_key: b").replace('routing_key: "a"', "routing_key: b")
    assert edited != exported
    done = world.ctl.run("apply", "--probe", "-f", "-", stdin=edited)
    assert (done.returncode, done.stderr) == (0, "") and "sink.rabbitmq.routing_key" in done.stdout
    assert name in done.stdout


def request(names, endpoints, **more):
    producers = [topology_pb2.Producer(name=n, check=topology_pb2.CheckPolicy(endpoints=[e.replace("NAME", n) for e in endpoints]))
                 for n in names]
    return admin_pb2.ApplyTopologyRequest(topology=topology_pb2.Topology(producers=producers), **more)


def test_bounds(world, client):
    """64 endpoints at most; one that many have is tried once; only together with validate_only."""
    apply = client.admin.ApplyTopology
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        apply(request(["bounded"], [], probe=True), timeout=TIME)
    port = free_port()
    many = [f"http://127.0.0.1:{port}/{i}" for i in range(8)]
    answer = apply(request([f"bounded-{i}" for i in range(9)], many, probe=True, validate_only=True), timeout=TIME)
    assert (len(answer.probes), answer.untried) == (64, 8) and all(p.error for p in answer.probes)
    assert not stored(world, "bounded-0")
    consumer = ConsumerServer()
    try:
        answer = apply(request([f"bounded-{i}" for i in range(9)], [consumer.url], probe=True, validate_only=True), timeout=TIME)
        assert [(p.name, p.endpoint, p.error) for p in answer.probes] == [(f"bounded-{i}", consumer.url, "") for i in range(9)]
    finally:
        consumer.close()


def test_time_is_bounded(world, client, hole):
    """Silent endpoints cost the time of the call and no more; what was not tried is counted."""
    silent = [f"https://127.0.0.1:{hole}/NAME/{i}" for i in range(8)]
    answer = client.admin.ApplyTopology(request([f"silent-{i}" for i in range(8)], silent, probe=True, validate_only=True), timeout=7)
    assert len(answer.probes) >= 16 and len(answer.probes) + answer.untried == 64 and answer.untried > 0
    assert all(p.error for p in answer.probes)


def test_the_daemon_ends_while_endpoints_are_tried(site, hole):
    """Nothing is left behind: it exits as always."""
    world = site.world("probe_end").start()
    try:
        silent = [f"https://127.0.0.1:{hole}/", f"grpc://127.0.0.1:{hole}"]
        call = world.client.admin.ApplyTopology.future(request(["left"], silent, probe=True, validate_only=True), timeout=TIME)
        rabbit = admin_pb2.ApplyTopologyRequest(validate_only=True, probe=True, topology=topology_pb2.Topology(
            topics=[topology_pb2.Topic(name="left")], subscriptions=[topology_pb2.Subscription(
                name="left", topic="left", sink=topology_pb2.Sink(rabbitmq=topology_pb2.RabbitmqSink(url=f"amqp://a:b@127.0.0.1:{hole}")))]))
        other = world.client.admin.ApplyTopology.future(rabbit, timeout=TIME)
        world.client.admin.ListTopics(admin_pb2.ListTopicsRequest(), timeout=TIME)
        world.txmsgd.stop()
        for ended in (call, other):
            ended.exception(timeout=TIME)
    finally:
        world.close()
