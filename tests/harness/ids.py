"""UUIDv7."""

import os
import time
import uuid


def uuid7(shift_seconds=0.0):
    """A fresh UUIDv7 as text, its time shifted against the clock."""
    value = int.from_bytes(os.urandom(16), "big") & ((1 << 80) - 1)
    value |= int((time.time() + shift_seconds) * 1000) << 80
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return str(uuid.UUID(int=value))
