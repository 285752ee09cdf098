"""The producers: one process, many transactions under way, any replica for any call.

    python -m fault.producers CONFIG     CONFIG is a JSON file: seed, rate, callers, targets, directory

It works until a line `finish` comes on its standard input; then it repeats what is still unsettled until every call has a
certain answer, prints `finished` and ends. `calm` is noted in the history."""

import asyncio
import collections
import json
import pathlib
import random
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness import protos

protos.generate()

import grpc
from google.rpc import status_pb2
from harness.client import details_of, duration
from txmsg.v1 import message_service_pb2 as pb, message_service_pb2_grpc, transaction_pb2

from fault import content, scenarios, streams
from fault.history import Recorder

CALL_TIMEOUT = 3
STREAMED = 0.3       # of the operations go over Pipeline
ATTEMPTS = 12        # of one operation while the load lasts
SETTLED_WITHIN = 90  # seconds, for all that is left at the end
NOT_STORED = {"STORE_UNAVAILABLE", "SHUTTING_DOWN", "OVERLOADED", "EXPIRED_IN_QUEUE", "DEADLINE_PASSED"}
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0),
           ("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100),
           ("grpc.max_reconnect_backoff_ms", 500)]
STATES = {number: name.removeprefix("TRANSACTION_STATE_") for name, number in transaction_pb2.TransactionState.items()}
ORIGINS = {number: name.removeprefix("DECISION_ORIGIN_") for name, number in transaction_pb2.DecisionOrigin.items()}
METHODS = {"prepare": "Prepare", "confirm": "Confirm", "cancel": "Cancel", "publish": "Publish", "get": "GetTransaction"}


def request_of(kind, t, variant=0, producer=None, named=False):
    if kind == "get":
        return pb.GetTransactionRequest(transaction_id=t.tx)
    if kind == "confirm":
        return pb.ConfirmRequest(transaction_id=t.tx, producer=producer or "")
    if kind == "cancel":
        return pb.CancelRequest(transaction_id=t.tx, producer=producer or (t.producer if named else ""), reason="changed mind")
    messages = [transaction_pb2.Message(topic=topic, body=body, key=content.key_of(t.tx, n), content_type="text/plain",
                                        headers={"x-variant": str(variant)})
                for n, ((topic, _), body) in enumerate(zip(t.messages, t.bodies(variant)))]
    if kind == "publish":
        return pb.PublishRequest(transaction_id=t.tx, producer=t.producer, messages=messages, business_key=t.business_key)
    return pb.PrepareRequest(transaction_id=t.tx, producer=t.producer, messages=messages, business_key=t.business_key,
                             check_after=duration(t.check_after) if t.check_after else None)


def operation_of(kind, request):
    return pb.Operation(**{kind: request})


def arguments_of(kind, t, variant=0, producer=None, named=False):
    """What the history says of a call; all that the checker needs to know what it may have done."""
    fields = {"tx": t.tx}
    if kind in ("prepare", "publish"):
        fields |= {"producer": t.producer, "v": variant, "messages": t.messages, "key": t.business_key}
        if t.check_after:
            fields["after"] = t.check_after
    elif kind == "cancel" and (named or producer):
        fields["producer"] = producer or t.producer
    elif producer:
        fields["producer"] = producer
    return fields


def done(status):
    fields = {"state": STATES[status.state]}
    if status.origin:
        fields["origin"] = ORIGINS[status.origin]
    return "ok", fields


def refused(code, reason, metadata):
    """How an error ends an operation. Only what the contract says to be certain is `fail`."""
    fields = {"code": code}
    if reason:
        fields["reason"] = reason
    for name in ("decision", "origin"):
        if metadata.get(name):
            fields[name] = metadata[name]
    certain = reason in NOT_STORED or code in ("NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "INVALID_ARGUMENT",
                                               "RESOURCE_EXHAUSTED")
    return "fail" if certain else "info", fields


def refused_call(error):
    found = None
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            found = details_of(status_pb2.Status.FromString(value))
    return refused(error.code().name, found.reason if found else None, found.metadata if found else {})


def ended(result):
    """How an operation of a Batch or a Pipeline ended."""
    if result.WhichOneof("result") == "status":
        return done(result.status)
    found = details_of(result.error)
    return refused(found.code, found.reason, found.metadata)


def answered(how, fields):
    """It will not become another answer by being repeated. NOT_FOUND does, while a Prepare is under way."""
    return how == "ok" or (how == "fail" and fields.get("reason") not in NOT_STORED and fields["code"] != "NOT_FOUND")


class Caller:
    def __init__(self, config):
        self.config = config
        self.history = Recorder(config["directory"], "producers")
        self.rng = random.Random(f"{config['seed']} targets")
        self.hurry = asyncio.Event()
        self.unsettled = collections.deque()
        self.last = []
        self.channels = [grpc.aio.insecure_channel(target, options=OPTIONS) for target in config["targets"]]
        self.stubs = [message_service_pb2_grpc.MessageServiceStub(channel) for channel in self.channels]
        self.pipes = [streams.Pipe(stub) for stub in self.stubs]
        self.operations = 0

    async def pause(self, seconds):
        try:
            await asyncio.wait_for(self.hurry.wait(), seconds)
        except TimeoutError:
            pass

    async def once(self, kind, t, **how):
        """One attempt at one replica; answers how it ended."""
        where = self.rng.randrange(len(self.stubs))
        request = request_of(kind, t, **how)
        if kind != "get" and self.rng.random() < STREAMED:
            return await self._streamed(where, kind, request, arguments_of(kind, t, **how))
        op = self.history.invoke(kind, at=where, **arguments_of(kind, t, **how))
        self.operations += 1
        try:
            answer = await getattr(self.stubs[where], METHODS[kind])(request, timeout=CALL_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            end = refused_call(error)
        else:
            end = self._read(answer.transaction) if kind == "get" else done(answer.status)
        self.history.end(op, end[0], **end[1])
        return end

    async def _streamed(self, where, kind, request, arguments):
        op = self.history.invoke(kind, at=where, stream=True, **arguments)
        self.operations += 1
        result = await self.pipes[where].ask(operation_of(kind, request), CALL_TIMEOUT)
        end = ended(result) if result else ("info", {"code": "UNAVAILABLE"})
        self.history.end(op, end[0], **end[1])
        return end

    def _read(self, transaction):
        fields = {"state": STATES[transaction.state]}
        if transaction.origin:
            fields["origin"] = ORIGINS[transaction.origin]
        return "ok", fields

    async def settle(self, kind, t, **how):
        """Repeats a call until its answer is certain; False if that takes too long, or the answer was no."""
        for attempt in range(ATTEMPTS):
            end = await self.once(kind, t, **how)
            if answered(*end):
                return end[0] == "ok"
            if self.hurry.is_set():
                break
            await self.pause(0.05 * 1.4 ** attempt * (0.5 + self.rng.random()))
        self.unsettled.append((kind, t, how))
        return False

    def at_last(self, kind, t):
        self.last.append((kind, t, {}))

    async def batch(self, steps):
        """One Batch call; what it leaves uncertain is settled call by call."""
        where = self.rng.randrange(len(self.stubs))
        request = pb.BatchRequest(operations=[operation_of(kind, request_of(kind, t)) for kind, t in steps])
        ops = [self.history.invoke(kind, at=where, batch=True, **arguments_of(kind, t)) for kind, t in steps]
        self.operations += len(steps)
        try:
            answer = await self.stubs[where].Batch(request, timeout=CALL_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            ends = [refused_call(error)] * len(steps)
        else:
            ends = [ended(result) for result in answer.results]
        for op, (how, fields) in zip(ops, ends, strict=True):
            self.history.end(op, how, **fields)
        for (kind, t), end in zip(steps, ends):
            if not answered(*end):
                await self.settle(kind, t)

    async def finish(self):
        """Every call that ended uncertain is repeated, the late ones are made; all must be answered in time."""
        deadline = time.monotonic() + SETTLED_WITHIN
        work = collections.deque([*self.unsettled, *self.last])
        self.unsettled.clear()
        slots = asyncio.Semaphore(16)
        waiting = asyncio.Event() # never set

        async def settle(kind, t, how):
            while True:
                async with slots:
                    end = await self.once(kind, t, **how)
                if answered(*end) or (end[1].get("code") == "NOT_FOUND" and kind != "get"):
                    return True
                if time.monotonic() > deadline:
                    self.history.fact("unsettled", kind=kind, tx=t.tx)
                    return False
                try:
                    await asyncio.wait_for(waiting.wait(), 0.2)
                except TimeoutError:
                    pass

        # In the order in which they were left: first headers, then decisions.
        order = {"prepare": 0, "publish": 0}
        for stage in (0, 1):
            stage_work = [w for w in work if order.get(w[0], 1) == stage]
            await asyncio.gather(*(settle(*w) for w in stage_work))
        return len(work)


async def load(caller, config):
    """Transactions begin at the rate, at most `callers` at once."""
    slots = asyncio.Semaphore(config["callers"])
    serial, running, begin = 0, set(), time.monotonic()

    async def one(number):
        rng = random.Random(f"{config['seed']} {number}")
        parts = iter(range(1 << 30))
        try:
            await scenarios.draw(rng)(caller, rng, lambda **how: content.make(rng, f"{number}.{next(parts)}", **how))
        finally:
            slots.release()

    def forget(task):
        running.discard(task)
        if task.exception():
            caller.history.fact("broken", error=repr(task.exception()))
            print(f"a producer broke: {task.exception()!r}", file=sys.stderr, flush=True)

    while not caller.hurry.is_set():
        await slots.acquire()
        serial += 1
        task = asyncio.create_task(one(serial))
        running.add(task)
        task.add_done_callback(forget)
        ahead = begin + serial / config["rate"] - time.monotonic()
        if ahead > 0:
            await caller.pause(ahead)
        elif ahead < -1:
            begin = time.monotonic() - serial / config["rate"] # an outage is not made up for
    while running:
        await asyncio.wait(running)


async def main(path):
    config = json.loads(pathlib.Path(path).read_text())
    caller = Caller(config)
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(load(caller, config))
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while (line := (await reader.readline()).decode().strip()) != "finish":
        if not line:
            return 1
        caller.history.fact(line)
    caller.history.fact("finish")
    caller.hurry.set()
    await work
    left = await caller.finish()
    caller.history.fact("finished", repeated=left)
    caller.history.close()
    print(json.dumps({"operations": caller.operations, "repeated": left}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1])))
