"""The two streams of a producer over grpc.aio: Pipeline for its operations, Checks for what it is asked."""

import asyncio
import contextlib
import itertools

import grpc
from txmsg.v1 import check_service_pb2, message_service_pb2 as pb, transaction_pb2

AGAIN = 0.2 # seconds from the end of a stream of Checks to the next one
CREDIT = 32 # checks of one stream at once
VERDICTS = {name.removeprefix("CHECK_VERDICT_"): number for name, number in transaction_pb2.CheckVerdict.items()}


class Pipe:
    """Operations over a Pipeline to one replica, opened anew when it has ended. What gets ready while a frame is written goes in
    the next one. Callers are few, so the first credit is never used up."""

    def __init__(self, stub):
        self.stub = stub
        self.tags = itertools.count(1)
        self.queue, self.answers = [], {} # TaggedOperation; future by tag
        self.ready = asyncio.Event()
        self.task = None

    async def ask(self, operation, timeout):
        """The OperationResult, or None: the stream has ended or said nothing, and nobody knows what became of the operation."""
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._stream())
        tag = next(self.tags)
        answer = self.answers[tag] = asyncio.get_running_loop().create_future()
        self.queue.append(pb.TaggedOperation(tag=tag, operation=operation))
        self.ready.set()
        try:
            return await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            return None
        finally:
            self.answers.pop(tag, None)

    async def _stream(self):
        call = self.stub.Pipeline()
        writer = asyncio.create_task(self._write(call))
        try:
            while (frame := await call.read()) is not grpc.aio.EOF:
                for result in frame.results:
                    self._answer(result.tag, result.result)
        except grpc.aio.AioRpcError:
            pass
        finally:
            writer.cancel()
            call.cancel()
            self.queue.clear()
            for tag in list(self.answers):
                self._answer(tag, None)

    def _answer(self, tag, result):
        answer = self.answers.get(tag)
        if answer and not answer.done():
            answer.set_result(result)

    async def _write(self, call):
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError): # the reader hears of it as well
            while await self.ready.wait():
                self.ready.clear()
                frame, self.queue = self.queue, []
                await call.write(pb.PipelineRequest(operations=frame))


async def answer_checks(target, producer, decide):
    """Holds a stream of Checks at the replica for ever. `decide(check, stream)` is awaited for each check; it answers the id and the
    verdict to send, None for no answer, or raises EOFError: this instance dies now, and another is there soon."""
    channel = grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0),
                                                         ("grpc.max_reconnect_backoff_ms", 500)])
    call_of = channel.stream_stream("/txmsg.v1.MessageService/Checks", request_serializer=pb.ChecksRequest.SerializeToString,
                                    response_deserializer=pb.ChecksResponse.FromString)
    never = asyncio.Event()
    for number in itertools.count(1):
        call = call_of()
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, EOFError):
            await call.write(pb.ChecksRequest(producer=producer, credit=CREDIT))
            while (frame := await call.read()) is not grpc.aio.EOF:
                for tagged in frame.checks:
                    said = await decide(tagged.check, number)
                    answers = [pb.TaggedCheckAnswer(tag=tagged.tag, answer=check_service_pb2.CheckResponse(
                        transaction_id=said[0], decision=VERDICTS[said[1]]))] if said else []
                    await call.write(pb.ChecksRequest(credit=1, answers=answers))
        call.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(never.wait(), AGAIN)
