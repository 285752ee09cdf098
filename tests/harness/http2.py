"""HTTP/2 frames by hand, for peers that no library would let one be. A connection sends what it is told and nothing
by itself: no window, no acknowledgement."""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4


def frame(kind, payload=b"", flags=0, stream=0):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, bits, first=0):
    """An integer of HPACK behind `bits` of its first byte."""
    top = (1 << bits) - 1
    if value < top:
        return bytes([first | value])
    out = bytearray([first | top])
    value -= top
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def literal(name, value):
    """A header that is not put into the dynamic table, without Huffman."""
    return b"\0" + integer(len(name), 7) + name + integer(len(value), 7) + value


def headers_of(path, more=()):
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"localhost"),
              (b"te", b"trailers"), (b"content-type", b"application/grpc"), *more]
    return b"".join(literal(*f) for f in fields)


def settings(**values):
    return frame(SETTINGS, b"".join(struct.pack(">HI", int(number[1:]), value) for number, value in values.items()))


def message(data):
    """A gRPC message."""
    return b"\0" + struct.pack(">I", len(data)) + data


def data_frames(stream, data, end=True, size=16384):
    pieces = [data[i:i + size] for i in range(0, len(data), size)] or [b""]
    return b"".join(frame(DATA, piece, END_STREAM if end and i == len(pieces) - 1 else 0, stream)
                    for i, piece in enumerate(pieces))


def call(stream, path, data, more=(), end=True):
    """A whole unary call on a stream, as far as the windows of a new connection allow."""
    return frame(HEADERS, headers_of(path, more), END_HEADERS, stream) + data_frames(stream, message(data), end)


class Connection:
    """A socket with the client's preface sent. `window`: what answers may fill of each stream before they wait. `tls`: an
    SSLContext that speaks h2."""

    def __init__(self, port, window=None, timeout=30, tls=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.buffer = b""
        self.send(PREFACE + (settings() if window is None else settings(**{f"s{INITIAL_WINDOW_SIZE}": window})))

    def send(self, data):
        self.socket.sendall(data)

    def _take(self, n):
        while len(self.buffer) < n:
            piece = self.socket.recv(65536)
            if not piece:
                raise ConnectionError("closed by the server")
            self.buffer += piece
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def read(self):
        """The next frame: kind, flags, stream, payload."""
        head = self._take(9)
        length = int.from_bytes(head[:3], "big")
        return head[3], head[4], int.from_bytes(head[5:], "big") & 0x7fffffff, self._take(length)

    def read_until(self, kind, stream=None):
        while True:
            found = self.read()
            if found[0] == kind and stream in (None, found[2]):
                return found

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
