"""Programmable HTTP peers: what a sink or a check endpoint may meet out there, on purpose."""

import collections
import contextlib
import dataclasses
import http.server
import json
import socket
import threading
import time
import urllib.parse

import webhook
from servers.process import wait_until


@dataclasses.dataclass
class Request:
    """One request as it came."""

    path: str
    headers: dict
    body: bytes
    at: float

    def json(self):
        return json.loads(self.body)


@dataclasses.dataclass
class Reply:
    """A well-formed answer; `held` may keep it back until an event is set."""

    status: int = 200
    body: bytes = b""
    headers: dict = dataclasses.field(default_factory=dict)
    held: threading.Event = None


@dataclasses.dataclass
class Raw:
    """Bytes written as they are, then the connection is closed (`hang`: it is left open)."""

    data: bytes = b""
    hang: bool = False


class Drip:
    """A header and then one byte at a time, for ever."""


class Flood:
    """A body without an end, as fast as it is taken."""


HANG = Raw(hang=True)
RESET = Raw()
GARBAGE = Raw(b"\x16\x03\x01\x00garbage\r\n\r\n\x00\xff")


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body, time.monotonic())
        self.server.peer.received(request)
        with contextlib.suppress(OSError):
            self._answer(self.server.peer.answer(request))

    do_GET = do_PUT = do_POST

    def _answer(self, reply):
        stopping = self.server.peer.stopping
        if isinstance(reply, Reply):
            if reply.held:
                while not reply.held.wait(0.05) and not stopping.is_set():
                    pass
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)
            return
        self.close_connection = True
        if isinstance(reply, Raw):
            self.connection.sendall(reply.data)
            if reply.hang:
                self._until_closed(stopping)
            return
        self.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n")
        chunk = b"{" if isinstance(reply, Drip) else b"{" * 65536
        while not stopping.is_set():
            self.connection.sendall(chunk)
            if isinstance(reply, Drip):
                stopping.wait(0.05)

    def _until_closed(self, stopping):
        self.connection.settimeout(0.1)
        while not stopping.is_set():
            try:
                if not self.connection.recv(4096):
                    return
            except TimeoutError:
                pass

    def log_message(self, *args):
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        pass # peers that are cut off are what these servers are for


class HttpPeer:
    """An HTTP server that records what it gets and answers what it is told to: by default `reply`, for one path or
    for one id (see `key`) what `on` says, a function or a fixed reply."""

    def __init__(self, reply=None):
        self.reply = reply if reply is not None else Reply()
        self.rules = {}
        self.requests = []
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.peer = self
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def url(self, path="/"):
        return f"http://127.0.0.1:{self.port}{path}"

    def key(self, request):
        return urllib.parse.urlsplit(request.path).path

    def on(self, key, *replies):
        """Answers with these replies in turn; the last one stays."""
        with self.lock:
            self.rules[key] = collections.deque(replies)

    def received(self, request):
        with self.lock:
            self.requests.append(request)

    def answer(self, request):
        with self.lock:
            queue = self.rules.get(self.key(request))
            reply = self.reply if queue is None else queue.popleft() if len(queue) > 1 else queue[0]
        return reply(request) if callable(reply) else reply

    def got(self, key=None):
        """The requests so far, those with this key."""
        with self.lock:
            return [r for r in self.requests if key is None or self.key(r) == key]

    def wait(self, count=1, key=None, timeout=20):
        """Waits for so many requests; answers them."""
        return wait_until(lambda: (lambda seen: seen if len(seen) >= count else None)(self.got(key)), timeout,
                          f"{count} requests with {key} (there are {len(self.got(key))})")

    def close(self):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


class HttpSink(HttpPeer):
    """A consumer; the key is the message id, `<transaction>-<n>`."""

    def key(self, request):
        return request.headers.get("webhook-id", "")

    def bodies(self):
        return [r.body for r in self.got()]

    def of(self, tx, n=0):
        return self.got(f"{tx}-{n}")

    def wait_for(self, tx, n=0, count=1, timeout=20):
        return self.wait(count, f"{tx}-{n}", timeout)


def verdict(decision, **more):
    """A reply that decides, for the id that was asked."""
    def reply(request):
        body = {"transactionId": request.json()["transactionId"], "decision": decision, **more}
        return Reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    return reply


class CheckEndpoint(HttpPeer):
    """A producer's check endpoint; the key is the transaction id. UNKNOWN unless told otherwise."""

    def __init__(self, secret=None):
        super().__init__(verdict("UNKNOWN"))
        self.secret = secret
        self.bad_signatures = 0

    def key(self, request):
        try:
            return request.json().get("transactionId", "")
        except ValueError:
            return ""

    def received(self, request):
        if self.secret and not webhook.verify(self.secret, request.headers, request.body):
            self.bad_signatures += 1
        super().received(request)

    def decide(self, tx, *decisions):
        self.on(tx, *(verdict(d) if isinstance(d, str) else d for d in decisions))


class Proxy:
    """A TCP proxy in front of a server, to cut connections and to refuse new ones; or a hole, into which bytes, ends and new
    connections fall until it is mended."""

    def __init__(self, port):
        self.target = port
        self.open = True
        self.flow = threading.Event()
        self.flow.set()
        self.pairs = set()
        self.abandoned = set()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                inside, _ = self.listener.accept()
            except OSError:
                return
            if not self.open:
                inside.close()
                continue
            if self.flow.is_set():
                self._connect(inside)
            else:
                threading.Thread(target=self._connect, args=(inside,), daemon=True).start()

    def _connect(self, inside):
        self.flow.wait()
        try:
            outside = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            inside.close()
            return
        outside.settimeout(None)
        pair = (inside, outside)
        with self.lock:
            self.pairs.add(pair)
        for source, sink in (pair, pair[::-1]):
            threading.Thread(target=self._copy, args=(pair, source, sink), daemon=True).start()

    def _copy(self, pair, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.flow.wait()
                sink.sendall(data)
        self.flow.wait()
        self._drop(pair)

    def _drop(self, pair):
        with self.lock:
            if pair in self.abandoned:
                return
            self.pairs.discard(pair)
        for s in pair:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()

    def cut(self, refuse=True):
        """Drops every connection; new ones are refused until `mend`."""
        self.open = not refuse
        for pair in list(self.pairs):
            self._drop(pair)

    def hole(self):
        self.flow.clear()

    def mend(self):
        self.open = True
        self.flow.set()

    def abandon(self):
        """Clients lose their connections, and the server does not hear of it. New ones are taken."""
        with self.lock:
            lost = self.pairs - self.abandoned
            self.abandoned |= lost
        for inside, _ in lost:
            with contextlib.suppress(OSError):
                inside.shutdown(socket.SHUT_RDWR)
            inside.close()

    def close(self):
        self.abandoned.clear()
        self.cut()
        self.flow.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
