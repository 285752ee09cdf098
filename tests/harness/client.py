"""A producer's view of txmsg over stock grpcio, and what an error must look like."""

import contextlib
import types

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status
from txmsg.v1 import (admin_service_pb2 as admin_pb2, admin_service_pb2_grpc, message_service_pb2 as service_pb2,
                      message_service_pb2_grpc, transaction_pb2)

DEADLINE = 30
STATES = {name.removeprefix("TRANSACTION_STATE_"): number
          for name, number in transaction_pb2.TransactionState.items()}
PREPARED, CONFIRMED, CANCELLED, STUCK = (STATES[n] for n in ("PREPARED", "CONFIRMED", "CANCELLED", "STUCK"))
RPC, CHECK, ADMIN = (transaction_pb2.DecisionOrigin.Value(f"DECISION_ORIGIN_{n}") for n in ("RPC", "CHECK", "ADMIN"))
COMMITTED = transaction_pb2.DECISION_COMMITTED
ROLLED_BACK = transaction_pb2.DECISION_ROLLED_BACK
DELIVERY = {name.removeprefix("DELIVERY_STATE_"): number for name, number in transaction_pb2.DeliveryState.items()}


def message(topic, body=b"body", **fields):
    if isinstance(body, str):
        body = body.encode()
    return transaction_pb2.Message(topic=topic, body=body, **fields)


def duration(seconds):
    from google.protobuf.duration_pb2 import Duration

    value = Duration()
    value.FromNanoseconds(int(seconds * 1_000_000_000))
    return value


def prepare_request(messages, producer="shop", tx="", business_key="", check_after=None):
    return service_pb2.PrepareRequest(
        transaction_id=tx, producer=producer, messages=messages, business_key=business_key,
        check_after=duration(check_after) if check_after is not None else None)


def publish_request(messages, producer="shop", tx="", business_key=""):
    return service_pb2.PublishRequest(transaction_id=tx, producer=producer, messages=messages,
                                      business_key=business_key)


def operation(request):
    """An Operation of a batch from any of the four requests."""
    kinds = {service_pb2.PrepareRequest: "prepare", service_pb2.ConfirmRequest: "confirm",
             service_pb2.CancelRequest: "cancel", service_pb2.PublishRequest: "publish"}
    return service_pb2.Operation(**{kinds[type(request)]: request})


class Client:
    def __init__(self, target):
        self.target = target
        self.use(grpc.insecure_channel(target, options=[
            ("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20),
            ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0),
            ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]))

    def use(self, channel):
        self.channel = channel
        self.messages = message_service_pb2_grpc.MessageServiceStub(self.channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def close(self):
        self.channel.close()

    def prepare(self, messages, **fields):
        return self.messages.Prepare(prepare_request(messages, **fields), timeout=DEADLINE).status

    def publish(self, messages, **fields):
        return self.messages.Publish(publish_request(messages, **fields), timeout=DEADLINE).status

    def confirm(self, tx, producer="", bodies=()):
        request = service_pb2.ConfirmRequest(transaction_id=tx, producer=producer, bodies=bodies)
        return self.messages.Confirm(request, timeout=DEADLINE).status

    def cancel(self, tx, producer="", reason=""):
        request = service_pb2.CancelRequest(transaction_id=tx, producer=producer, reason=reason)
        return self.messages.Cancel(request, timeout=DEADLINE).status

    def batch(self, requests):
        request = service_pb2.BatchRequest(operations=[operation(r) for r in requests])
        return self.messages.Batch(request, timeout=DEADLINE).results

    def get(self, tx, bodies=False):
        request = service_pb2.GetTransactionRequest(transaction_id=tx, include_bodies=bodies)
        return self.messages.GetTransaction(request, timeout=DEADLINE).transaction

    def list(self, **fields):
        return self.messages.ListTransactions(service_pb2.ListTransactionsRequest(**fields), timeout=DEADLINE)

    def raw(self, path, data, timeout=DEADLINE, metadata=None):
        """A unary call with bytes as they are, past every check of the client library."""
        return self.channel.unary_unary(path, request_serializer=lambda b: b, response_deserializer=lambda b: b)(
            data, timeout=timeout, metadata=metadata)


def details_of(status):
    """What a google.rpc.Status says, as a plain object."""
    found = types.SimpleNamespace(code=code_pb2.Code.Name(status.code), message=status.message, reason=None,
                                  domain=None, metadata={}, fields={}, retry_seconds=None)
    for detail in status.details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            found.reason, found.domain, found.metadata = info.reason, info.domain, dict(info.metadata)
        elif detail.Unpack(bad):
            found.fields = {v.field: v.description for v in bad.field_violations}
        elif detail.Unpack(retry):
            found.retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    return found


def error_of(rpc_error):
    """The error of a failed call, and that it follows the contract: the code twice the same, domain, reason, a text."""
    status = rpc_status.from_call(rpc_error)
    assert status is not None, f"no google.rpc.Status in the trailers of {rpc_error.code()}: {rpc_error.details()}"
    assert isinstance(status, status_pb2.Status)
    error = details_of(status)
    assert error.code == rpc_error.code().name
    assert error.message == rpc_error.details() and error.message
    check_details(error)
    return error


def check_details(error):
    assert error.domain == "txmsg"
    assert error.reason and error.reason == error.reason.upper()
    if error.code == "INVALID_ARGUMENT":
        assert error.fields, f"{error.reason} without BadRequest"
    if error.code in ("RESOURCE_EXHAUSTED", "UNAVAILABLE"):
        assert error.retry_seconds and error.retry_seconds > 0, f"{error.reason} without RetryInfo"


@contextlib.contextmanager
def refused(code, reason, **metadata):
    """The call in this block must fail so. What is in `metadata` must be in that of the error; the error is in the
    value of the block, as `.error`."""
    caught = types.SimpleNamespace(error=None)
    try:
        yield caught
    except grpc.RpcError as rpc_error:
        caught.error = error = error_of(rpc_error)
        assert (error.code, error.reason) == (code, reason), f"{error.code} {error.reason}: {error.message}"
        for name, value in metadata.items():
            assert error.metadata.get(name) == value, f"{name} in {error.metadata}"
    else:
        raise AssertionError(f"accepted, but {code} {reason} was due")


def result_error(result):
    """The error of an operation of a batch, checked like that of a call."""
    assert result.WhichOneof("result") == "error", result
    error = details_of(result.error)
    check_details(error)
    return error


def result_state(result):
    assert result.WhichOneof("result") == "status", result
    return result.status.state


def apply_topology(client, topology, **fields):
    return client.admin.ApplyTopology(admin_pb2.ApplyTopologyRequest(topology=topology, **fields), timeout=DEADLINE)
