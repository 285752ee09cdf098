"""Producers over libtxmsg: the programs tests/client/drive.c and answer.c, told by lines what to do."""

import re
import subprocess

from . import client_program


class Drive:
    """One process with one client. `options` are those of its command line, `server` may be several."""

    program = "txmsg-drive"
    killed = False

    def __init__(self, server, producer="shop", **options):
        servers = [server] if isinstance(server, str) else server
        words = [w for s in servers for w in ("--server", s)] + ["--producer", producer]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", str(value)]
        self.process = subprocess.Popen([*client_program(self.program), *words], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, bufsize=1)

    def tell(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")

    def hear(self):
        """The next line as a dictionary; its first word, if it has no `=`, is its `status`."""
        line = self.process.stdout.readline().rstrip("\n")
        assert line, f"the program ended with {self.process.wait()}"
        line, _, text = line.partition(" text=")
        answer = dict(re.findall(r"(\w+)=(\S*)", line), text=text)
        if "=" not in line.split(" ")[0]:
            answer["status"] = line.split(" ")[0]
        return answer

    def __call__(self, *words):
        self.tell(*words)
        return self.hear()

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0 or self.killed

    def kill(self):
        self.killed = True
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            self.kill()
        else:
            self.close()
        self.process.stdout.close()


class Answerer(Drive):
    """The program tests/client/answer.c: it serves checks at an address of its own."""

    program = "txmsg-answer"

    def __init__(self, server, producer="shop", **options):
        super().__init__(server, producer, **options)
        self.port = int(self.hear()["port"])

    @property
    def url(self):
        return f"grpc://127.0.0.1:{self.port}"
