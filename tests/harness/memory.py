"""Makes allocations of a daemon fail, by the page that it shares with us (services/base/mem_fault.c)."""

import json
import mmap
import os
import struct

from . import BUILD


def available():
    """Is this build one with -Dfault_points=true?"""
    options = json.loads((BUILD / "meson-info/intro-buildoptions.json").read_text(encoding="utf-8"))
    return any(o["name"] == "fault_points" and o["value"] is True for o in options)


class MemoryFault:
    """Daemons started inside of `with fault.shared()` take orders."""

    def __init__(self, path):
        self.path = path
        with open(path, "wb") as file:
            file.write(bytes(mmap.PAGESIZE))
        with open(path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def shared(self):
        return _Environment("MEM_FAULT_FILE", os.fspath(self.path))

    def arm(self, n, threads, times=1):
        """The n-th allocation from now of threads whose names begin so fails, and the next `times` - 1."""
        self.disarm()
        struct.pack_into("<qq16s", self.page, 8, times, 0, threads.encode())
        struct.pack_into("<q", self.page, 0, n)

    def disarm(self):
        """How many have failed."""
        struct.pack_into("<q", self.page, 0, 0)
        return self.failed()

    def failed(self):
        return struct.unpack_from("<q", self.page, 16)[0]


class _Environment:
    def __init__(self, name, value):
        self.name, self.value = name, value

    def __enter__(self):
        os.environ[self.name] = self.value

    def __exit__(self, *args):
        del os.environ[self.name]
