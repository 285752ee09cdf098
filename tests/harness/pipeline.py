"""A client of Pipeline over stock grpcio: frames of tagged operations, results by tag, credit as the server grants it."""

import itertools
import queue
import threading

import grpc
from servers.process import wait_until
from txmsg.v1 import message_service_pb2 as service_pb2

from .client import operation

_END = object()


class Pipe:
    """One stream. `send` puts operations on it as they are, `run` keeps to the credit and waits for the results.

    After the stream has ended `error` is its RpcError, None if it ended with OK; results that never came stay away."""

    def __init__(self, client, timeout=None, metadata=None):
        self.tags = itertools.count(1)
        self.results = {}
        self.frames = []    # of the server: (number of results, credit)
        self.credit = 0     # what is left of it
        self.granted = 0    # in all
        self.error = None
        self.ended = False
        self.changed = threading.Condition()
        self._outgoing = queue.Queue()
        self.call = client.messages.Pipeline(iter(self._next, _END), timeout=timeout, metadata=metadata)
        threading.Thread(target=self._read, daemon=True).start()

    def _next(self):
        return self._outgoing.get()

    def _read(self):
        error = None
        try:
            for frame in self.call:
                with self.changed:
                    self.frames.append((len(frame.results), frame.credit))
                    self.credit += frame.credit
                    self.granted += frame.credit
                    for result in frame.results:
                        assert result.tag not in self.results, f"tag {result.tag} was answered twice"
                        self.results[result.tag] = result.result
                    self.changed.notify_all()
        except grpc.RpcError as caught:
            error = caught
        with self.changed:
            self.error, self.ended = error, True
            self.changed.notify_all()
        self._outgoing.put(_END)

    def send(self, requests, tags=None):
        """One frame with these requests, whatever the credit is; answers the tags."""
        tags = list(tags) if tags is not None else [next(self.tags) for _ in requests]
        with self.changed:
            self.credit -= len(tags)
        self._outgoing.put(service_pb2.PipelineRequest(operations=[
            service_pb2.TaggedOperation(tag=tag, operation=operation(request) if request is not None else None)
            for tag, request in zip(tags, requests)]))
        return tags

    def take_credit(self, wanted, timeout=60):
        """Waits for at least one credit; answers how many of `wanted` may be sent, 0 if the stream has ended."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.credit > 0 or self.ended, timeout), "no credit"
            return 0 if self.ended else min(wanted, self.credit)

    def wait(self, tags, timeout=60):
        """The results of these tags, in their order; None for what was not answered before the stream ended."""
        tags = list(tags)
        with self.changed:
            assert self.changed.wait_for(lambda: self.ended or all(t in self.results for t in tags), timeout), \
                f"{sum(t not in self.results for t in tags)} of {len(tags)} results are missing"
            return [self.results.get(tag) for tag in tags]

    def run(self, requests, frame=100, timeout=60):
        """Sends within the credit, in frames of at most `frame`; answers the results in order."""
        requests, tags = list(requests), []
        while len(tags) < len(requests):
            n = self.take_credit(min(frame, len(requests) - len(tags)), timeout)
            if not n:
                break
            tags += self.send(requests[len(tags):len(tags) + n])
        return self.wait(tags, timeout) + [None] * (len(requests) - len(tags))

    def half_close(self):
        self._outgoing.put(_END)

    def wait_end(self, timeout=60):
        """The RpcError, None for OK."""
        wait_until(lambda: self.ended, timeout, "the stream has ended")
        return self.error

    def close(self):
        """Half-closes and waits for a clean end."""
        self.half_close()
        error = self.wait_end()
        assert error is None, error

    def cancel(self):
        self.call.cancel()
