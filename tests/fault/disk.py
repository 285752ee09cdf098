"""A small file system of its own for PostgreSQL, so that it can be filled: a sparse ext4 image on a loop device. It is
mounted in a mount namespace of this process, so it is gone with the last process of the run, however that ends."""

import contextlib
import ctypes
import os
import pathlib
import shutil
import subprocess

_CLONE_NEWNS = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


class Disk:
    def __init__(self, directory, megabytes):
        """OSError or CalledProcessError: this machine, or this account, does not allow it."""
        self.directory = pathlib.Path(directory)
        self.image = self.directory.with_suffix(".img")
        self.ballast = self.directory / "ballast"
        if os.geteuid() != 0:
            raise PermissionError("only root may mount")
        if _libc.unshare(_CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        self._run("mount", "--make-rprivate", "/")
        with open(self.image, "wb") as image:
            image.truncate(megabytes << 20)
        self._run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", self.image)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._run("mount", "-o", "loop", self.image, self.directory)

    @staticmethod
    def _run(*args):
        subprocess.run(args, check=True, capture_output=True, env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})

    def fill(self):
        """Takes every block that is left. Nothing is written: the blocks are only reserved."""
        with open(self.ballast, "wb") as file:
            size = shutil.disk_usage(self.directory).free
            begin = 0
            while size >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), begin, size)
                    begin += size
                except OSError:
                    size //= 2

    def free(self):
        self.ballast.unlink(missing_ok=True)

    def close(self):
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("umount", self.directory)
        self.image.unlink(missing_ok=True)
