"""The dev cluster of the demo: start, observation from outside, kills and restarts of its members.

It ends only processes that it or its `argosy dev` started, by process id.
"""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request

from . import observe

PORTS = {"master": (5050, 5052), "agent": (5051,)}
# At most six members in each of these.
BASES = [f"127.77.{net}.1" for net in range(10)]
AGENT_RESOURCES = "cpus:2;mem:1024;disk:4096;ports:[31000-31099]"
STOP_S = 40
# A master that lags less has caught up: work continues, so the newest entries are always in flight.
CLOSE_ENTRIES = 100


class Failed(Exception):
    """An expected event that did not happen."""


def free_base():
    """Returns the first network of six loopback addresses with free ports."""
    wanted = os.environ.get("ARGOSY_DEMO_BASE")
    for base in [wanted] if wanted else BASES:
        with contextlib.suppress(OSError):
            net, host = base.rsplit(".", 1)
            for at in range(6):
                for port in PORTS["master" if at < 3 else "agent"]:
                    with socket.socket() as probe:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        probe.bind((f"{net}.{int(host) + at}", port))
            return base
    where = wanted or f"{BASES[0]} to {BASES[-1]}"
    raise Failed(f"ports 5050 to 5052 are taken at {where}; ss -ltnp lists the processes")


class Cluster:
    def __init__(self, argosy, directory, host_path, programs, marker):
        self.argosy, self.directory, self.host_path, self.programs = argosy, directory, host_path, programs
        # Settings for other clusters must not reach this one.
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("ARGOSY_")}
        self.environment["DEMO_RUN"] = marker
        # The variables of commands and frameworks, once the cluster runs.
        self.client_environment = self.environment
        self.tls = None
        self.record = None
        self.dev = None
        # Restarted members, by name; `argosy dev` reaps its own.
        self.again = {}
        self.dead = {}

    def start(self):
        """Returns when a leader is known and every agent is connected."""
        record = self.directory / "cluster.json"
        record.unlink(missing_ok=True)
        base = free_base()
        net, host = base.rsplit(".", 1)
        # Reduce tasks fetch the output of map tasks from their agents, which are on this host.
        outputs = [f"--fetch-allow={net}.{int(host) + at}:5051" for at in range(3, 6)]
        command = [
            self.argosy, "dev", "--size", "3x3", "--base", base, "--record", record, *outputs,
            # The services of the story listen on ports of their agents.
            "--allow-host-network",
            "--agent-resources", AGENT_RESOURCES, "--host-path", self.host_path,
            "--fetch-dir", self.programs,
        ]
        with open(self.directory / "dev.log", "wb") as log:
            self.dev = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment, start_new_session=True)
        deadline = time.monotonic() + 60
        while not (self.record and self.record["ready"]):
            if self.dev.poll() is not None or time.monotonic() > deadline:
                output = (self.directory / "dev.log").read_text().strip()
                raise Failed(f"the cluster does not start:\n{output}")
            time.sleep(0.02)
            with contextlib.suppress(OSError, ValueError):
                self.record = json.loads(record.read_text())
        shutil.copy(record, self.directory / "members.json")
        files = self.record["tls"]
        self.tls = ssl.create_default_context(cafile=files["ca"])
        self.tls.load_cert_chain(files["certificate"], files["key"])
        self.client_environment = self.environment | {
            "ARGOSY_TLS_CA": files["ca"], "ARGOSY_TLS_CERT": files["certificate"], "ARGOSY_TLS_KEY": files["key"],
        }

    def get(self, address, path, timeout_s=0.5):
        """Returns the JSON at this address and path."""
        with urllib.request.urlopen(f"https://{address}{path}", timeout=timeout_s, context=self.tls) as response:
            return json.load(response)

    @property
    def home(self):
        return self.record["directory"]

    @property
    def masters(self):
        return self.record["masters"]

    def members(self, kind):
        return [member for member in self.record["members"] if member["kind"] == kind]

    @property
    def agents(self):
        """Returns the addresses of all agents."""
        return {member["api"] for member in self.members("agent")}

    def at(self, api):
        """Returns the member with this address."""
        return next(member for member in self.record["members"] if member["api"] == api)

    def process(self, member):
        """Returns the id and start time of the current process of this member."""
        pid, started = pathlib.Path(member["pid_file"]).read_text().split()
        return int(pid), int(started)

    def kill(self, member):
        """Sends SIGKILL. Returns the process and the time just before."""
        process = self.process(member)
        if not observe.lives(process):
            raise Failed(f"{member['name']} has ended by itself; its log is {member['log']}")
        at = time.time()
        os.kill(process[0], signal.SIGKILL)
        self.dead[member["name"]] = at
        if member["name"] in self.again:
            self.again.pop(member["name"]).wait()
        return process, at

    def start_again(self, member):
        """Starts the member with its first command line."""
        with open(member["log"], "ab") as log:
            self.again[member["name"]] = subprocess.Popen(
                member["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment, start_new_session=True)
        del self.dead[member["name"]]

    def is_again(self, member):
        """Returns whether the restarted process is up."""
        with contextlib.suppress(OSError, ValueError):
            return self.process(member)[0] == self.again[member["name"]].pid
        return False

    def check(self):
        """Raises if a member has exited without a kill."""
        if self.dev.poll() is not None:
            raise Failed(f"argosy dev has ended, see {self.directory / 'dev.log'}")
        for name, process in self.again.items():
            if process.poll() is not None:
                log = self.directory / f"{name}.log"
                raise Failed(f"{name} was started again and has ended (status {process.returncode}), see {log}")

    def is_caught_up(self):
        """Returns whether `argosy master list` shows three voters that have all committed entries."""
        command = [self.argosy, "master", "list", "--output", "json", "--masters", self.masters]
        try:
            done = subprocess.run(command, capture_output=True, timeout=10, check=False,
                                  env=self.client_environment)
        except subprocess.TimeoutExpired:
            return False
        if done.returncode != 0 or self.dead:
            return False
        masters = json.loads(done.stdout)["masters"]
        lags = [int(master.get("lag", CLOSE_ENTRIES)) for master in masters if master.get("voter")]
        return len(lags) == 3 and max(lags) < CLOSE_ENTRIES

    def stop(self):
        """Stops the cluster in order. Returns messages about failures."""
        if not self.dev:
            return []
        wrong = []
        if self.dev.poll() is None:
            self.dev.send_signal(signal.SIGINT)
            try:
                self.dev.wait(STOP_S)
            except subprocess.TimeoutExpired:
                wrong.append(f"argosy dev did not stop within {STOP_S} s and was killed")
                self.dev.kill()
                self.dev.wait()
        if self.dev.returncode != 0:
            wrong.append(f"argosy dev ended with status {self.dev.returncode}, see {self.directory / 'dev.log'}")
        for name, process in self.again.items():
            if process.poll() is None:
                try:
                    process.wait(2)
                except subprocess.TimeoutExpired:
                    wrong.append(f"{name} was not stopped by argosy dev and was killed")
                    process.kill()
                    process.wait()
        if wrong and self.record:
            self._clear()
        return wrong

    def _clear(self):
        """Kills what the agents left running, after a failed stop."""
        for member in self.members("agent"):
            with contextlib.suppress(OSError, ValueError):
                process = self.process(member)
                if observe.lives(process):
                    os.kill(process[0], signal.SIGKILL)
            subprocess.run([self.argosy, "agent", "stop", "--kill-tasks", "--data-dir", member["directory"]],
                           capture_output=True, timeout=30, check=False)


def snake(name):
    """Converts firstCommitMs to first_commit_ms."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


class Watcher(threading.Thread):
    """Polls the masters' operator API for the leader. What a leader reports of its own election is lost
    when it is killed, so it is collected here."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster = cluster
        self.addresses = [member["api"] for member in cluster.members("master")]
        self.view = {}
        self.failovers = {}
        self.epochs = {}
        self.stop = threading.Event()

    def run(self):
        while not self.stop.wait(0.05):
            views = []
            for address in self.addresses:
                with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                    views.append(self.cluster.get(address, "/v1/cluster"))
            for view in views:
                for failover in view.get("failovers", []):
                    numbers = {snake(key): int(value) for key, value in failover.items()
                               if key == "epoch" or key.endswith("Ms")}
                    known = self.failovers.setdefault(numbers["epoch"], {})
                    known.update(numbers)
            own = [view for view in views if view.get("leader") and view["leader"] == view.get("answeredBy")]
            if own:
                self.view = max(own, key=lambda view: int(view["epoch"]))
                self.epochs[int(self.view["epoch"])] = self.view["leader"]

    def successor(self, killed_at):
        """Returns the steps of the first leader elected since then that has launched a task; None if none has."""
        elected = [steps for steps in list(self.failovers.values()) if steps.get("elected_ms", 0) / 1000 >= killed_at]
        done = [steps for steps in elected if "first_launch_ms" in steps and steps["epoch"] in self.epochs]
        return dict(min(done, key=lambda steps: steps["epoch"])) if done else None

    @property
    def epoch(self):
        return int(self.view.get("epoch", 0))

    @property
    def leader(self):
        """Returns the API address of the leader, as reported by the leader."""
        masters = self.view.get("masters", [])
        return next((master["apiAddress"] for master in masters if master["role"] == "leader"), None)

    def finish(self):
        self.stop.set()
        self.join()
