"""A private RabbitMQ node with its own epmd, Erlang cookie and account. Nothing of a node already on the machine is used."""

import pathlib
import shutil
import socket

from .process import Process, ServerError, free_port, make_directory, service_user, stored_secret, wait_until

BIN = pathlib.Path("/usr/lib/rabbitmq/bin") # not /usr/sbin: Debian's wrapper there is for the system's node


class Rabbit:
    def __init__(self, directory, login="txmsg"):
        self.user = service_user("rabbitmq")
        self.directory = make_directory(directory, self.user, 0o700)
        self.log = self.directory / "rabbitmq.log"
        self.login = login
        self.password = stored_secret(self.directory / "secret")
        self.port = free_port()
        self.epmd_port = free_port()
        self.dist_port = free_port()
        self.epmd = None
        self.process = None

    def url(self, port=None):
        return f"amqp://{self.login}:{self.password}@127.0.0.1:{port or self.port}"

    def start(self):
        for attempt in range(5):
            try:
                return self._start()
            except ServerError as error:
                self.stop()
                if "eaddrinuse" not in str(error).lower() or attempt == 4:
                    raise
                self.port, self.epmd_port, self.dist_port = free_port(), free_port(), free_port()

    def _environment(self):
        home = self.directory
        return {
            "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home), "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": "txmsg@localhost", "RABBITMQ_MNESIA_BASE": f"{home}/mnesia",
            "RABBITMQ_LOG_BASE": f"{home}/log", "RABBITMQ_LOGS": "-", "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins", "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{home}/generated", "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/advanced",
            "RABBITMQ_PID_FILE": f"{home}/rabbit.pid", "RABBITMQ_DIST_PORT": str(self.dist_port),
            "ERL_EPMD_PORT": str(self.epmd_port), "ERL_EPMD_ADDRESS": "127.0.0.1",
            # One process and no shell in between, so that signals reach the node itself. Two schedulers are plenty.
            "RUNNING_UNDER_SYSTEMD": "1", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none",
        }

    def _start(self):
        config = (f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
                  "distribution.listener.interface = 127.0.0.1\n"
                  f"default_user = {self.login}\ndefault_pass = {self.password}\n"
                  "disk_free_limit.absolute = 100MB\nvm_memory_high_watermark.absolute = 512MB\n"
                  "log.console = true\nlog.console.level = warning\nlog.file = false\n")
        for name, text in (("rabbitmq.conf", config), ("enabled_plugins", "[].\n")):
            path = self.directory / name
            path.write_text(text, encoding="ascii")
            if self.user:
                shutil.chown(path, self.user)
        environment = self._environment()
        self.epmd = Process("epmd", ["/usr/bin/epmd", "-port", str(self.epmd_port), "-address", "127.0.0.1"],
                            self.directory / "epmd.log", user=self.user, env=environment, cwd=self.directory)
        wait_until(lambda: connects(self.epmd_port), 20, "epmd accepts connections", alive=self.epmd.check_alive)
        self.process = Process("RabbitMQ", [BIN / "rabbitmq-server"], self.log, user=self.user, env=environment,
                               cwd=self.directory)
        wait_until(self.ready, 90, "RabbitMQ accepts connections", interval=0.1, alive=self.process.check_alive)
        return self

    def ready(self):
        """A node that takes connections answers the protocol header with Connection.Start, a method frame."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as s:
                s.sendall(b"AMQP\x00\x00\x09\x01")
                return s.recv(1) == b"\x01"
        except OSError:
            return False

    def stop(self, kill=False):
        for process in (self.process, self.epmd):
            if process and kill:
                process.kill()
            elif process:
                process.stop(20)
        self.process = self.epmd = None

    def crash(self):
        self.stop(kill=True)

    def restart(self):
        self.stop()
        return self.start()

    def close(self):
        self.stop(kill=True)


def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
        return True
    except OSError:
        return False
