"""A producer instance in pull mode, over stock grpcio: takes checks from a stream, answers what it is told to."""

import queue
import threading

import grpc
from servers.process import wait_until
from txmsg.v1 import check_service_pb2 as check_pb2, message_service_pb2 as service_pb2, transaction_pb2

_END = object()
VERDICTS = {name.removeprefix("CHECK_VERDICT_"): number for name, number in transaction_pb2.CheckVerdict.items()}


def answer_to(check, decision, **more):
    return check_pb2.CheckResponse(**{"transaction_id": check.transaction_id, "decision": VERDICTS[decision], **more})


class Puller:
    """One stream. `decide` (a dictionary by id, or a function of the check) says the answers: a word, a whole
    CheckResponse, None for none; by default `default`. Each check gives its credit back when it is answered."""

    def __init__(self, client, producer, credit=16, default="UNKNOWN"):
        self.default = default
        self.decide = {}
        self.checks = []   # TaggedCheck, as they came
        self.frames = []   # how many came at once
        self.error = None
        self.ended = False
        self.silent = False
        self.lock = threading.Lock()
        self._outgoing = queue.Queue()
        self._outgoing.put(service_pb2.ChecksRequest(producer=producer, credit=credit))
        self.call = client.messages.Checks(iter(self._outgoing.get, _END))
        threading.Thread(target=self._read, daemon=True).start()

    def _answer(self, tagged):
        with self.lock:
            rule = self.decide(tagged.check) if callable(self.decide) else \
                self.decide.get(tagged.check.transaction_id, self.default)
        if rule is None or self.silent:
            return None
        return answer_to(tagged.check, rule) if isinstance(rule, str) else rule

    def _read(self):
        try:
            for frame in self.call:
                with self.lock:
                    self.checks += frame.checks
                    self.frames.append(len(frame.checks))
                answers = [(c.tag, self._answer(c)) for c in frame.checks]
                self.send(answers=[(tag, a) for tag, a in answers if a is not None])
        except grpc.RpcError as caught:
            self.error = caught
        self.ended = True
        self._outgoing.put(_END)

    def send(self, answers=(), credit=None, producer=""):
        """Answers as (tag, CheckResponse); each gives one credit back unless `credit` says otherwise."""
        if answers or credit is not None or producer:
            self._outgoing.put(service_pb2.ChecksRequest(
                producer=producer, credit=len(answers) if credit is None else credit,
                answers=[service_pb2.TaggedCheckAnswer(tag=tag, answer=answer) for tag, answer in answers]))

    def of(self, tx):
        with self.lock:
            return [c for c in self.checks if c.check.transaction_id == tx]

    def wait(self, tx, count=1, timeout=30):
        """Waits until it was asked about `tx` so often; answers the tagged checks."""
        return wait_until(lambda: (lambda seen: seen if len(seen) >= count else None)(self.of(tx)), timeout,
                          f"{count} checks of {tx}")

    def wait_end(self, timeout=60):
        wait_until(lambda: self.ended, timeout, "the stream has ended")
        return self.error

    def half_close(self):
        self._outgoing.put(_END)

    def close(self):
        self.call.cancel()
