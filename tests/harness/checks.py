"""A producer application that serves CheckService over stock grpcio, and answers what it is told to."""

import concurrent.futures
import threading

import grpc
from txmsg.v1 import check_service_pb2 as check_pb2, check_service_pb2_grpc

from .pull import answer_to


class CheckServer(check_service_pb2_grpc.CheckServiceServicer):
    """`decide` says by id what is answered: a word, a whole CheckResponse, None for no answer (in a batch: a missing
    one); by default `default`. `batch`: it serves CheckBatch too. `fail`: every call ends with this code. `raw`: every
    call is answered with these bytes. `gate`: an event that answers wait for."""

    def __init__(self, batch=True, default="UNKNOWN", port=0):
        self.serves_batch = batch
        self.default = default
        self.decide = {}
        self.fail = self.raw = self.gate = None
        self.checks = []  # CheckRequest, as they came
        self.calls = []   # (method, number of checks)
        self.lock = threading.Lock()
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers((self._handlers(),))
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    def _handlers(self):
        def unary(function, request):
            def handle(message, context):
                answer = function(message, context)
                return self.raw if self.raw is not None else answer.SerializeToString()

            return grpc.unary_unary_rpc_method_handler(handle, request_deserializer=request.FromString)

        methods = {"Check": unary(self.Check, check_pb2.CheckRequest)}
        if self.serves_batch:
            methods["CheckBatch"] = unary(self.CheckBatch, check_pb2.CheckBatchRequest)
        return grpc.method_handlers_generic_handler("txmsg.v1.CheckService", methods)

    @property
    def url(self):
        return f"grpc://127.0.0.1:{self.port}"

    def _came(self, method, checks, context):
        with self.lock:
            self.calls.append((method, len(checks)))
            self.checks += checks
        if self.gate:
            self.gate.wait(60)
        if self.fail:
            context.abort(self.fail, "told to fail")

    def _answer(self, check):
        rule = self.decide.get(check.transaction_id, self.default)
        return answer_to(check, rule) if isinstance(rule, str) else rule

    def Check(self, request, context):
        self._came("Check", [request], context)
        return self._answer(request) or check_pb2.CheckResponse()

    def CheckBatch(self, request, context):
        self._came("CheckBatch", list(request.checks), context)
        answers = [self._answer(check) for check in request.checks]
        return check_pb2.CheckBatchResponse(answers=[a for a in reversed(answers) if a is not None])

    def of(self, tx):
        with self.lock:
            return [c for c in self.checks if c.transaction_id == tx]

    def close(self):
        if self.gate:
            self.gate.set()
        self.server.stop(0).wait(10)
