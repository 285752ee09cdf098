"""A consumer that serves ConsumerService over stock grpcio, and answers what it is told to."""

import collections
import concurrent.futures
import threading

import grpc
from servers.process import wait_until
from txmsg.v1 import consumer_service_pb2 as pb2

Outcome = pb2.DeliverResponse.Outcome
ACK = pb2.DeliverResponse(outcome=Outcome.OUTCOME_ACK)


def retry(reason="", after=None):
    return pb2.DeliverResponse(outcome=Outcome.OUTCOME_RETRY, reason=reason, retry_after=after)


def reject(reason=""):
    return pb2.DeliverResponse(outcome=Outcome.OUTCOME_REJECT, reason=reason)


class ConsumerServer:
    """Answers `reply`, or what stands first in `script[message_id]`: a DeliverResponse, a status code, bytes as they are, or an
    event to wait for before ACK. `service`: another name makes it one that serves something else."""

    def __init__(self, port=0, threads=16, service="txmsg.v1.ConsumerService", options=()):
        self.reply = ACK
        self.script = collections.defaultdict(list)
        self.requests = []  # (DeliverRequest, metadata), in the order of arrival
        self.peers = set()
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.held = []
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(threads), options=[("grpc.so_reuseport", 0), *options])
        handler = grpc.unary_unary_rpc_method_handler(self._deliver, request_deserializer=pb2.DeliverRequest.FromString)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Deliver": handler}),))
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    @property
    def url(self):
        return f"grpc://127.0.0.1:{self.port}"

    def _deliver(self, request, context):
        with self.lock:
            self.requests.append((request, dict(context.invocation_metadata())))
            self.peers.add(context.peer())
            replies = self.script[request.message_id]
            reply = replies.pop(0) if replies else self.reply
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return self._answer(reply, context)
        finally:
            with self.lock:
                self.now -= 1

    def _answer(self, reply, context):
        if isinstance(reply, threading.Event):
            with self.lock:
                self.held.append(reply)
            reply.wait(60)
            reply = ACK
        if isinstance(reply, grpc.StatusCode):
            context.abort(reply, "told to fail")
        return reply if isinstance(reply, bytes) else reply.SerializeToString()

    def got(self):
        with self.lock:
            return list(self.requests)

    def of(self, tx, n=0):
        return [request for request, _ in self.got() if request.message_id == f"{tx}.{n}"]

    def wait_for(self, tx, n=0, count=1, timeout=30):
        return wait_until(lambda: (lambda r: r if len(r) >= count else None)(self.of(tx, n)), timeout,
                          f"{tx}.{n} has come {count} times")

    def close(self):
        stopped = self.server.stop(0)
        with self.lock:
            for event in self.held:
                event.set()
        stopped.wait(10)
