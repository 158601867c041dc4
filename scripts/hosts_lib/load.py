"""Load on a test cluster: writes, short tasks and services, with a witness for each start of a task."""

import collections
import json
import pathlib
import shlex
import subprocess
import time

from hosts_lib.machine import Failed

PROGRAM = pathlib.Path(__file__).resolve().parent / "load_program.py"
# Not in the root of a test host, which is an overlay: its owners cannot be mapped to those of tasks.
WITNESS = "/var/witness"
# Until the last tasks have ended, on a busy machine.
END_S = 180
# The command line of a service.
SERVICE = "sleep 86421"


class Load:
    """The program load_program.py on the host for monitoring, as a unit. Each load has another name."""

    def __init__(self, cluster, what):
        self.cluster, self.what = cluster, what
        self.host = cluster.hosts["p1"]
        self.name = f"load{time.time():.0f}"

    def __enter__(self):
        self.host.host.ssh("cat > /var/tmp/load_program.py", stdin=PROGRAM.open("rb"))
        settings = " ".join(f"--setenv={one}" for one in self.cluster.operator.split())
        self.host.root(f"systemd-run --quiet --collect --unit=load --property=KillMode=process {settings} "
                       f"--property=TimeoutStopSec={END_S} -- python3 /var/tmp/load_program.py {self.name} /var/tmp/load.json")
        self.begun = time.monotonic()
        return self

    def __exit__(self, kind, why, trace):
        if kind:
            # Not to hide why the step has failed.
            self.host.host.ssh("systemctl kill --signal=KILL load", capture_output=True)
            return
        self.host.host.ssh("systemctl stop load", capture_output=True, timeout=2 * END_S)
        self.report = json.loads(self.host.root("cat /var/tmp/load.json && rm /var/tmp/load.json"))
        self.check()

    def check(self):
        """Fails if a call or a task was lost, or a task was started twice."""
        starts = collections.Counter(name for agent in self.cluster.agents
                                     for name in agent.root(f"cat {WITNESS}/batch").split()
                                     if name.startswith(f"{self.name}-"))
        twice = [name for name, number in starts.items() if number > 1]
        missing = [name for name in self.report["tasks"] if name not in starts]
        unknown = set(starts) - set(self.report["tasks"])
        if self.report["failed"] or twice or missing or unknown:
            raise Failed(f"under load, during {self.what}: calls failed: {self.report['failed']}; tasks started twice: "
                         f"{twice}, never: {missing}, unknown: {unknown}")
        pause, end = self.longest_pause()
        self.cluster.log(f"load during {self.what}: {len(self.report['tasks'])} tasks, each started once; "
                         f"{len(self.report['writes'])} writes, longest pause {pause:.2f} s until "
                         f"{time.strftime('%H:%M:%S', time.gmtime(end))}")

    def longest_pause(self):
        """Returns the longest time between two successful writes, and when it ended, in seconds."""
        times = self.report["writes"]
        return max(((after - before, after) for before, after in zip(times, times[1:])), default=(0.0, 0.0))


def prepare(agent):
    """Makes the files to which tasks of any user append a line when they start. They are empty."""
    agent.root(f"mkdir -p {WITNESS} && true > {WITNESS}/batch && true > {WITNESS}/services && "
               f"chmod 0777 {WITNESS} && chmod 0666 {WITNESS}/batch {WITNESS}/services")


def start_service(cluster, name, agent, command=f"exec {SERVICE}"):
    """Starts a task on an agent that runs until it is killed."""
    script = f"echo {name} >> /witness/services; {command}"
    cluster.argosy(f"run --detach --name {name} --attribute host={agent} --volume {WITNESS}:/witness --timeout 60s "
                   f"-- sh -c {shlex.quote(script)}")
    cluster.argosy(f"wait task {name} --for running --timeout 60s")


class Services:
    """The processes of one service on each agent, which must stay the same."""

    def __init__(self, cluster, agents=None):
        self.cluster = cluster
        self.agents = agents or [agent.host.name for agent in cluster.agents]
        self.before = self.find()

    @staticmethod
    def start(cluster, agents=None):
        for agent in agents or [agent.host.name for agent in cluster.agents]:
            start_service(cluster, f"service-{agent}", agent)

    def find(self):
        """Returns the process id of the service of each agent."""
        found = {}
        for name in self.agents:
            pids = self.cluster.hosts[name].root(f"pgrep -fx '{SERVICE}' || true").split()
            if len(pids) != 1:
                raise Failed(f"the service of agent {name} has the processes {pids}")
            found[name] = pids[0]
        return found

    def check(self, after):
        """Fails if a service has another process, or if its agent does not continue it."""
        now = self.find()
        if now != self.before:
            raise Failed(f"after {after}, services have other processes: {self.before} before, {now} after")
        for name in self.agents:
            self.cluster.operate(f"exec service-{name} -- true", f"after {after}, the agent {name} continues its service")
            starts = self.cluster.hosts[name].root(f"grep -cx service-{name} {WITNESS}/services")
            if starts != "1":
                raise Failed(f"after {after}, the service of {name} has been started {starts} times")


def follow_logs(cluster):
    """Begins to follow the output of a task that counts."""
    start_service(cluster, "ticker", "a1", "i=0; while :; do echo $i; i=$((i + 1)); sleep 0.2; done")
    settings = " ".join(f"--setenv={one}" for one in cluster.operator.split())
    cluster.hosts["p1"].root(f"systemd-run --quiet --collect --unit=follow {settings} -- "
                             "sh -c 'exec argosy logs --follow --stdout ticker > /var/tmp/follow.log 2> /var/tmp/follow.err'")


def check_followed(cluster):
    """Fails if the command has ended, or if lines are missing, and ends it."""
    host = cluster.hosts["p1"]
    if host.host.ssh("systemctl is-active --quiet follow", stderr=subprocess.DEVNULL).returncode:
        raise Failed(f"argosy logs --follow has ended: {host.root('tail -3 /var/tmp/follow.log /var/tmp/follow.err')}")
    last = int(host.root("tail -1 /var/tmp/follow.log"))
    host.until(f"[ $(tail -1 /var/tmp/follow.log) -gt {last + 5} ]", "argosy logs --follow prints new lines")
    host.root("systemctl stop follow")
    lines = host.root("cat /var/tmp/follow.log").splitlines()
    if lines != [str(number) for number in range(len(lines))]:
        raise Failed(f"argosy logs --follow has lost or repeated lines, of {len(lines)}; it printed to standard error: "
                     f"{host.root('cat /var/tmp/follow.err')}")
    cluster.argosy("task kill ticker --timeout 30s")
    cluster.log(f"argosy logs --follow has printed {len(lines)} lines without a gap")
