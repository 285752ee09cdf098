"""A private MariaDB, for the recipes of client/. Only the server's own files are needed (mariadb-server-core): no service,
no account of its own."""

import getpass
import pathlib
import shutil
import tempfile

from servers.process import Process, make_directory, run, wait_until

DAEMON = pathlib.Path("/usr/sbin/mariadbd")


class MariaDB:
    def __init__(self, directory):
        self.directory = make_directory(directory, mode=0o700)
        self.data = self.directory / "data"
        # A socket's path holds at most 107 bytes.
        self.sockets = pathlib.Path(tempfile.mkdtemp(prefix="txmsg-my-", dir="/tmp"))
        self.socket = self.sockets / "s"
        self.process = None

    def start(self):
        user = f"--user={getpass.getuser()}"
        run(["/usr/bin/mariadb-install-db", "--no-defaults", f"--datadir={self.data}", user,
             "--auth-root-authentication-method=normal", "--skip-test-db"])
        self.process = Process("MariaDB", [
            DAEMON, "--no-defaults", f"--datadir={self.data}", f"--socket={self.socket}", "--skip-networking",
            f"--pid-file={self.directory / 'pid'}", "--innodb-buffer-pool-size=16M", user], self.directory / "mariadb.log")
        wait_until(self.socket.exists, 60, "MariaDB listens", alive=self.process.check_alive)
        self.connect().cursor().execute("CREATE DATABASE shop")
        return self

    def connect(self, database=None, **more):
        import pymysql

        return pymysql.connect(unix_socket=str(self.socket), user="root", database=database, **more)

    def close(self):
        if self.process:
            self.process.stop(30)
        shutil.rmtree(self.sockets, ignore_errors=True)
