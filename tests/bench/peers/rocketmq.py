"""RocketMQ 5.5.0, one broker with SYNC_FLUSH on the same disk: transactional messages of its own Java client."""

import os
import pathlib
import shutil
import signal
import subprocess

from servers.process import Process, ServerError, free_port, run, wait_until

from bench.loads import Load

VERSION = "5.5.0"
ARTIFACTS = ["namesrv", "broker", "tools", "client"]
POM = ("<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion><groupId>peers</groupId>"
       "<artifactId>rocketmq</artifactId><version>1</version><dependencies>{}</dependencies></project>\n")
DEPENDENCY = ("<dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-{}</artifactId>"
              "<version>" + VERSION + "</version></dependency>")
OPEN = ["--add-exports=java.base/sun.nio.ch=ALL-UNNAMED", "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
        *(f"--add-opens=java.base/{p}=ALL-UNNAMED" for p in ("java.nio", "sun.nio.ch", "java.lang", "java.util"))]
TOPIC = "Bench"
WARMUP = 4 # times that of others: each run of the client begins with cold code


class RocketMQ:
    @staticmethod
    def missing():
        return next((f"{tool} (of a JDK and Maven)" for tool in ("java", "javac", "mvn") if not shutil.which(tool)), None)

    def __init__(self, place, directory):
        self.place, self.directory = place, directory
        self.processes = []

    def build(self):
        if not (self.directory / "lib").exists():
            (self.directory / "pom.xml").write_text(POM.format("".join(DEPENDENCY.format(a) for a in ARTIFACTS)),
                                                    encoding="ascii")
            subprocess.run(["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib.new",
                            "-DincludeScope=runtime"], cwd=self.directory, check=True)
            (self.directory / "lib.new").rename(self.directory / "lib")
        self.classes = self.place.base / "rocketmq/classes"
        self.classes.mkdir(parents=True)
        run(["javac", "-cp", f"{self.directory}/lib/*", "-d", self.classes,
             pathlib.Path(__file__).with_name("RocketLoad.java")])

    def java(self, heap, main, *arguments, more=()):
        return ["java", f"-Duser.home={self.home}", *OPEN, f"-Xms{heap}", f"-Xmx{heap}", *more, "-cp",
                f"{self.classes}:{self.directory}/lib/*", main, *arguments]

    def server(self, name, heap, main, config, more=()):
        file, log = self.home / f"{name}.conf", self.home / f"{name}.out"
        file.write_text("".join(f"{k}={v}\n" for k, v in config.items()), encoding="ascii")
        environment = {**os.environ, "ROCKETMQ_HOME": str(self.home)}
        process = Process(name, self.java(heap, main, "-c", file, more=more), log, env=environment, cwd=self.home)
        self.processes.append(process)
        wait_until(lambda: "boot success" in log.read_text(errors="replace"), 60, f"{name} has started",
                   alive=process.check_alive, interval=0.2)

    def start(self):
        self.home = self.place.base / "rocketmq/home"
        self.home.mkdir(parents=True)
        self.build()
        names, port = free_port(), free_port()
        self.names = f"127.0.0.1:{names}"
        self.server("namesrv", "256m", "org.apache.rocketmq.namesrv.NamesrvStartup", {"listenPort": names})
        store = self.home / "store"
        self.server("broker", "2g", "org.apache.rocketmq.broker.BrokerStartup", {
            "brokerClusterName": "DefaultCluster", "brokerName": "broker-a", "brokerId": 0, "brokerIP1": "127.0.0.1",
            "namesrvAddr": self.names, "brokerRole": "ASYNC_MASTER", "flushDiskType": "SYNC_FLUSH", "listenPort": port,
            "storePathRootDir": store, "storePathCommitLog": store / "commitlog", "mappedFileSizeCommitLog": 256 << 20},
            more=["-XX:MaxDirectMemorySize=4g"])
        wait_until(self.make_topic, 60, "its topic is made", interval=1)
        warm = Load(self.command(32), lambda client: {"time": 0}) # the broker's code is compiled as it runs
        warm.thread.join()
        if not warm.report or warm.report["errors"]:
            raise ServerError(f"RocketMQ does not take messages: {warm.error_text()}")
        self.rest()

    def make_topic(self):
        try:
            said = run(self.java("256m", "org.apache.rocketmq.tools.command.MQAdminStartup", "updateTopic", "-n", self.names,
                                 "-c", "DefaultCluster", "-t", TOPIC, "-r", "8", "-w", "8", "-a",
                                 "+message.type=TRANSACTION"), env={**os.environ, "ROCKETMQ_HOME": str(self.home)})
            return "success" in said
        except ServerError:
            return False

    def pids(self):
        return [process.pid for process in self.processes]

    def prepare(self):
        """The log goes on where it was, as it would."""
        for process in self.processes:
            process.signal(signal.SIGCONT)

    def rest(self):
        """It would use up to a whole core while others are measured."""
        for process in self.processes:
            process.signal(signal.SIGSTOP)

    def command(self, callers):
        options = self.place.options
        return self.java("512m", "RocketLoad", self.names, TOPIC, str(callers), f"{options.seconds:g}",
                         f"{WARMUP * options.warmup:g}", "1024")

    def close(self):
        self.prepare()
        for process in reversed(self.processes):
            process.kill()
        self.processes = []
