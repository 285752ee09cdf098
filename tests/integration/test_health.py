"""Health, reflection, and the HTTP side: what load balancers, tools and Prometheus ask."""

import queue
import threading

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from harness import protos
from harness.client import message
from harness.ids import uuid7
from harness.client import Client
from servers.process import wait_until

SERVICES = {"txmsg.v1.MessageService", "txmsg.v1.AdminService", "grpc.health.v1.Health"}
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", ["", "txmsg.v1.MessageService", "txmsg.v1.AdminService"])
def test_check(client, service):
    wait_until(lambda: client.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status == SERVING,
               5, "it serves, as /readyz says")


def test_check_of_an_unknown_service(client):
    with pytest.raises(grpc.RpcError) as caught:
        client.health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_watch(client):
    call = client.health.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    assert next(call).status == SERVING
    call.cancel()
    call = client.health.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
    assert next(call).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    call.cancel()


def test_watch_hears_of_the_end(world):
    """A drain is announced to who watches, before the connection goes."""
    daemon = world.daemon("ending").start()
    other = Client(daemon.grpc)
    heard = queue.Queue()

    def listen():
        try:
            for answer in other.health.Watch(health_pb2.HealthCheckRequest(), timeout=30):
                heard.put(answer.status)
        except grpc.RpcError as error:
            heard.put(error.code())

    threading.Thread(target=listen, daemon=True).start()
    first = heard.get(timeout=10)
    if first == health_pb2.HealthCheckResponse.NOT_SERVING:  # the daemon is ready, and about to say so here too
        first = heard.get(timeout=10)
    assert first == SERVING
    assert daemon.stop() == 0
    assert heard.get(timeout=10) == health_pb2.HealthCheckResponse.NOT_SERVING
    other.close()


def test_reflection_v1alpha_with_the_stock_client(client):
    database = ProtoReflectionDescriptorDatabase(client.channel)
    assert SERVICES <= set(database.get_services())
    file = database.FindFileContainingSymbol("txmsg.v1.MessageService")
    assert {m.name for s in file.service for m in s.method} >= {"Prepare", "Confirm", "Cancel", "Publish", "Batch"}
    assert database.FindFileByName("google/rpc/status.proto").package == "google.rpc"


def reflect(client, version, *requests):
    """Answers of ServerReflectionInfo of this version, by plain messages."""
    find = protos.private_messages()
    package = f"grpc.reflection.{version}"
    request, response = find(f"{package}.ServerReflectionRequest"), find(f"{package}.ServerReflectionResponse")
    call = client.channel.stream_stream(f"/{package}.ServerReflection/ServerReflectionInfo",
                                        request_serializer=lambda m: m.SerializeToString(),
                                        response_deserializer=response.FromString)
    return list(call(iter([request(**r) for r in requests]), timeout=20))


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(client, version):
    services, file, none, symbol = reflect(
        client, version, {"list_services": "*"}, {"file_by_filename": "txmsg/v1/transaction.proto"},
        {"file_by_filename": "no/such.proto"}, {"file_containing_symbol": "txmsg.v1.MessageService.Prepare"})
    names = {s.name for s in services.list_services_response.service}
    assert SERVICES | {f"grpc.reflection.{version}.ServerReflection"} <= names
    files = [descriptor_pb2.FileDescriptorProto.FromString(f) for f in file.file_descriptor_response.file_descriptor_proto]
    assert "txmsg/v1/transaction.proto" in {f.name for f in files}
    assert none.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert symbol.file_descriptor_response.file_descriptor_proto


def test_http_side(world, client):
    assert world.txmsgd.get("/healthz")[0] == 200
    assert world.txmsgd.get("/readyz")[0] == 200
    assert world.txmsgd.get("/no-such-page")[0] == 404


def test_metrics(world, client):
    """Prometheus text with the names of the design; a request more is a count more."""
    topic = world.topic(nowhere={"discard": {}})

    def confirmed():
        status, text = world.txmsgd.get("/metrics")
        assert status == 200
        lines = [line for line in text.splitlines() if line.startswith("txmsg_decisions_total{") and "COMMITTED" in line.upper()]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    before = confirmed()
    for _ in range(3):
        client.publish([message(topic)], tx=uuid7())
    wait_until(lambda: confirmed() == before + 3, 5, "three more decisions are counted")
    text = world.txmsgd.get("/metrics")[1]
    for name in ("txmsg_requests_total", "txmsg_request_seconds", "txmsg_decisions_total", "txmsg_group_commit_size",
                 "txmsg_oldest_undecided_seconds", "txmsg_stuck"):
        assert f"\n# TYPE {name} " in f"\n{text}", name
