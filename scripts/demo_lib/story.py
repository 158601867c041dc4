"""The events of a demo, in order, and their records for verify-demo. It gives no verdict.

`tick` runs all the time: it restarts killed members when due, follows the frameworks, probes new
services, and draws the live line.
"""

import collections
import contextlib
import http.client
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import tempfile
import time

from . import observe
from .cluster import Cluster, Failed, Watcher
from .probes import Probe
from .screen import Screen, bar
from .work import COPIES, MAPS, REDUCES, TASK_PROGRAMS, Steady, WordCount

# Time between the kill and the restart of a member.
DEAD_S = 2.0
# Timeout of steps that usually take a second or two; a loaded machine is slow.
TIMEOUT_S = 60
# Timeout of a first offer; there is none while all agents are full.
OFFER_S = 1
# Timeout of the whole work.
WORK_S = 300
PHASES = (
    ("dead_seen_ms", "its connections are closed, the others know"),
    ("elected_ms", "{leader} leads"),
    ("first_commit_ms", "first commit, epoch {epoch}"),
    ("first_offer_ms", "first offer"),
    ("first_launch_ms", "first new task"),
)


class Story:
    """The events, in order; `tick` runs all the time."""

    def __init__(self, bin_dir, out):
        self.bin_dir, self.out = bin_dir, out
        self.directory = out / "demo-out"
        self.witness = self.directory / "witness"
        self.marker = secrets.token_hex(8)
        self.screen = Screen()
        self.begun = time.monotonic()
        self.programs = programs(bin_dir)
        self.cluster = Cluster(bin_dir / "argosy", self.directory, self.directory, self.programs, self.marker)
        self.steady = self.wordcount = self.watcher = None
        self.probes = {}
        self.kills = []
        self.starts_due = []
        self.second_start = None
        self.is_drawing = False
        self.facts = {"marker": self.marker, "kills": self.kills, "groups": [], "processes": [], "fault": None}

    # Continuous work.

    def tick(self):
        """Restarts killed members when due, follows all processes, draws."""
        now = time.time()
        for due in [due for due in self.starts_due if due["at"] <= now]:
            self.starts_due.remove(due)
            self.cluster.start_again(due["member"])
            due["kill"]["started_again"] = time.time()
            self.step(due["kill"]["started_again"] - due["kill"]["at"], f"{due['member']['name']} is started again")
        self.cluster.check()
        for framework in filter(None, (self.steady, self.wordcount)):
            framework.follow()
            failure = framework.failure()
            if failure:
                raise Failed(failure)
        if self.steady:
            self.probe_new_copies()
        if self.is_drawing:
            self.draw()

    def probe_new_copies(self):
        for task, (address, port) in self.steady.running().items():
            if task not in self.probes:
                self.probes[task] = Probe(task, address, port)
                self.probes[task].start()

    def draw(self):
        progress = self.wordcount.progress()
        answered = sum(probe.answered for probe in self.probes.values())
        failed = sum(len(probe.failures) for probe in self.probes.values())
        leader = self.watcher.leader
        self.screen.live(
            f"  {bar(self.wordcount.done, self.wordcount.total)} maps {progress['maps_done']}/{MAPS}"
            f"  reduces {progress['reduces_done']}/{REDUCES}  running {progress['running'] + len(self.probes)}"
            f"  leader {self.cluster.at(leader)['name'] if leader else 'none'}, epoch {self.watcher.epoch}"
            f"  probes {answered} ok, {failed} failed")

    def wait(self, what, is_true, timeout_s=TIMEOUT_S):
        """Waits until the condition is true."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.tick()
            if is_true():
                return
            if time.monotonic() > deadline:
                raise Failed(f"not within {timeout_s} s: {what}")
            time.sleep(0.02)

    def work_reaches(self, part, of):
        """Waits for this part of the work."""
        least = -(-self.wordcount.total * part // of)
        self.wait(f"{part}/{of} of the work", lambda: self.wordcount.done >= least, WORK_S)

    # The events in order.

    def start(self):
        stages = "a cluster, work on it, two leaders and an agent killed, everything verified"
        self.screen.log(f"Argosy demo: {stages}")
        begun = time.monotonic()
        self.cluster.start()
        self.stage(1, "cluster", "3 masters, 3 agents, each a process with an address of its own", begun)
        self.screen.log(f"      opened: {', '.join(self.cluster.record['opened'])}")
        self.watcher = Watcher(self.cluster)
        self.watcher.start()
        place = (self.bin_dir, self.programs, self.cluster.masters, self.directory, self.witness, self.cluster.client_environment)
        begun = time.monotonic()
        self.steady = Steady(*place)
        self.wait("the services run", lambda: len(self.steady.running()) == COPIES)
        self.wait("the services answer", lambda: all(probe.answered for probe in self.probes.values()))
        self.stage(2, "services", f"{COPIES} HTTP servers, from now on probed 10 times a second each", begun)
        self.wordcount = WordCount(*place)
        self.wait("the work begins", lambda: self.wordcount.last("input"))
        size = self.wordcount.last("input")
        text = f"the words of {size['files']:,} files, {size['bytes'] / 2**20:.1f} MiB, are counted"
        self.stage(3, "story", f"{text}; web https://{self.cluster.masters.split(',')[0]}")
        self.is_drawing = True

    def stage(self, number, name, text, begun=None):
        took = f"{time.monotonic() - begun:5.1f} s" if begun else ""
        self.screen.log(f"[{number}/4] {name:<10} {text:<68} {took}".rstrip())

    def look(self):
        """Returns all running tasks. Records processes and cgroups, for the check at the end."""
        tasks = observe.tasks(self.cluster.agents)
        groups = sorted({*self.facts["groups"], *trees(tasks)})
        seen = observe.belonging(self.marker, [self.cluster.home], groups)
        known = {tuple(process) for process in self.facts["processes"]}
        self.facts |= {"groups": groups, "processes": sorted(known | seen)}
        return tasks

    def kill(self, member, why, tasks):
        """Sends SIGKILL now; the restart follows later. Returns the record; `tasks` run at this moment."""
        note = {"member": member["name"], "kind": member["kind"], "work_done": self.wordcount.done,
                "work_total": self.wordcount.total, "epoch": self.watcher.epoch}
        process, note["at"] = self.cluster.kill(member)
        note["pid"], note["start_time"] = process
        self.kills.append(note)
        self.starts_due.append({"at": note["at"] + DEAD_S, "member": member, "kill": note})
        part = 100 * note["work_done"] // note["work_total"]
        self.screen.log(f"  {member['name']}, {why}, is killed with SIGKILL at {part} % of the work")
        self.step(0, f"process {process[0]} is gone; {len(tasks)} tasks are running")
        return note

    def kill_leader(self):
        """Kills the leader, waits until its successor has launched a task, and prints the time of each step."""
        tasks = self.look()
        # The master that itself reports now that it leads.
        self.wait("there is a leader", lambda: self.watcher.leader and self.leads(self.watcher.leader))
        note = self.kill(self.cluster.at(self.watcher.leader), "the leader", tasks)

        successor = lambda: self.watcher.successor(note["at"])
        self.wait("the next leader has launched a task", successor)
        # A kept offer may be used before an agent has resources for a new one.
        until = time.monotonic() + OFFER_S
        self.wait("an offer", lambda: "first_offer_ms" in successor() or time.monotonic() > until)
        note["failover"] = steps = successor()
        note["successor"] = self.cluster.at(self.api_of(steps["epoch"]))["name"]
        known = [(steps[key], words) for key, words in PHASES if steps.get(key)]
        for at_ms, words in sorted(known, key=lambda step: step[0]):
            self.step(at_ms / 1000 - note["at"], words.format(leader=note["successor"], epoch=steps["epoch"]))
        out_of_service = steps["first_commit_ms"] / 1000 - note["at"]
        note["out_of_service_ms"] = round(out_of_service * 1000)
        self.screen.log(f"           out of service for {note['out_of_service_ms']} ms")

    def step(self, seconds, words):
        """Prints a line of a timeline."""
        self.screen.log(f"  t+{seconds:.3f}  {words}")

    def leads(self, address):
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            view = self.cluster.get(address, "/v1/cluster")
            return view.get("leader") == view.get("answeredBy") and int(view["epoch"]) == self.watcher.epoch
        return False

    def api_of(self, epoch):
        """Returns the address of the master that led in this epoch."""
        node = self.watcher.epochs[epoch]
        return next(master["apiAddress"] for master in self.watcher.view["masters"] if master["nodeId"] == node)

    def kill_agent(self):
        """Kills the agent with most tasks, among those with a service. Records its tasks before and after."""
        tasks = self.look()
        services = {task["agent"] for task in tasks if task["task"] in self.probes}
        numbers = collections.Counter(task["agent"] for task in tasks if task["agent"] in services)
        address = numbers.most_common(1)[0][0]
        member = self.cluster.at(address)
        note = self.kill(member, "an agent", tasks)
        note["tasks_before"] = [task for task in tasks if task["agent"] == address]
        self.wait("the agent is back", lambda: "started_again" in note and self.is_back(member))
        note["back"] = time.time()
        note["tasks_after"] = [task for task in observe.tasks(self.cluster.agents) if task["agent"] == address]
        before = {(task["task"], task["pid"], task["start_time"]) for task in note["tasks_before"]}
        after = {(task["task"], task["pid"], task["start_time"]) for task in note["tasks_after"]}
        stay, ended = len(before & after), len(before - after)
        runs = "still runs as the same process" if stay == 1 else "still run as the same processes"
        words = f"{member['name']} is back; of its {len(before)} tasks {stay} {runs}, {ended} ended in the meantime"
        self.step(note["back"] - note["at"], words)

    def is_back(self, agent):
        """Returns whether the leader reports the agent as connected, and its process is the new one."""
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            agents = self.cluster.get(self.watcher.leader, "/v1/agents")["agents"]
            linked = [each["info"]["address"] for each in agents if each.get("connected")]
            return agent["api"] in linked and self.cluster.is_again(agent)
        return False

    def caught_up(self):
        return not self.starts_due and self.cluster.is_caught_up()

    def tell(self):
        self.start()
        self.work_reaches(1, 3)
        self.kill_leader()
        self.work_reaches(1, 2)
        self.kill_agent()
        if os.environ.get("FAULT") == "double-start":
            self.start_a_task_twice()
        self.work_reaches(2, 3)
        self.wait("three voters are caught up", self.caught_up)
        first = self.kills[0]
        first["caught_up"] = time.time()
        if self.wordcount.process.poll() is not None:
            raise Failed("the work was done before the second leader could be killed")
        self.kill_leader()
        self.wait("the work ends", lambda: self.wordcount.process.poll() is not None, WORK_S)
        self.wait("all masters are back", self.caught_up)
        self.is_drawing = False
        self.screen.end()
        report = self.wordcount.last("report")
        words = f"{report['counts']['words']:,} words counted in {report['elapsed_ms'] / 1000:.1f} s"
        self.screen.log(f"  {bar(1, 1)} {words}; leader {self.cluster.at(self.watcher.leader)['name']}")

    def start_a_task_twice(self):
        """Starts a second process of a map's command with the same environment, as a faulty agent would."""
        for task in observe.tasks(self.cluster.agents):
            arguments = (observe.read(f"/proc/{task['pid']}/cmdline") or b"").decode().split("\0")[:-1]
            if not task["task"].startswith("map-") or not arguments:
                continue
            directory = self.directory / "double-start"
            directory.mkdir(exist_ok=True)
            # The witness directory has another name on the host than in the container.
            arguments[0] = f"/proc/{task['pid']}/cwd/wordmap"
            arguments[arguments.index("--witness") + 1] = str(self.witness)
            self.facts["fault"] = f"double-start of {task['task']}"
            self.screen.log(f"  FAULT=double-start: {task['task']} is started a second time")
            self.second_start = subprocess.Popen(arguments, cwd=directory, env=observe.environment(task["pid"]))
            return
        raise Failed("no map runs that could be started twice")

    # The end.

    def note_outcome(self):
        """Records everything that must be queried before the cluster stops."""
        for probe in self.probes.values():
            probe.finish()
        tasks, token = [], ""
        while token is not None:
            page = self.cluster.get(self.watcher.leader, f"/v1/tasks?include_ended=true&page_size=10000&page_token={token}", timeout_s=10)
            tasks += page.get("tasks", [])
            token = page.get("nextPageToken") or None
        keep = ("frameworkId", "taskId", "agentId", "agentAddress", "state")
        self.write("tasks.json", [{key: task.get(key, "") for key in keep} for task in tasks])
        self.look()
        self.watcher.finish()
        self.facts |= {
            "home": self.cluster.home, "bin_dir": str(self.bin_dir), "masters": self.cluster.masters,
            "failovers": sorted(self.watcher.failovers.values(), key=lambda steps: steps["epoch"]),
            "probes": [probe.record() for probe in self.probes.values()],
            "epochs": sorted(self.watcher.epochs.items()),
        }

    def stop(self):
        """Stops everything, by process id. Returns messages about failures."""
        self.screen.end()
        for probe in self.probes.values():
            probe.stop.set()
        frameworks = [framework for framework in (self.wordcount, self.steady) if framework]
        for framework in frameworks:
            framework.ask_to_stop()
        wrong = [framework.stop() for framework in frameworks]
        if self.second_start:
            self.second_start.wait(TIMEOUT_S)
        stopped = self.cluster.stop()
        shutil.rmtree(self.programs, ignore_errors=True)
        return list(filter(None, wrong)) + stopped

    def write(self, name, content):
        (self.directory / name).write_text(json.dumps(content, indent=1))

    def hints(self):
        """Prints what to try on a cluster that is kept."""
        argosy = self.bin_dir / "argosy"
        address, port = next(iter(self.steady.running().values()))
        leader = self.cluster.process(self.cluster.at(self.watcher.leader))[0]
        lines = [
            "", "The cluster and the services are left running (KEEP=1). Try:",
            f"  export ARGOSY_CONTEXT={self.cluster.record.get('context')}",
            f"  export PATH={argosy.parent}:$PATH",
            "  argosy status", "  argosy ps",
            "  argosy run -- sh -c 'echo hello from $ARGOSY_AGENT_ID; sleep 2; exit 7'; echo $?",
            f"  curl http://{address}:{port}/",
            f"  kill -9 {leader}; argosy status        (the leader)",
            "Stop everything:",
            f"  kill {self.steady.process.pid}; sleep 2; kill {self.cluster.dev.pid}; rm -r {self.programs}",
        ]
        return "\n".join(lines)

    def keep_logs(self):
        """Copies the logs, because the cluster's directory is removed when it stops."""
        if self.cluster.record:
            for member in self.cluster.record["members"]:
                with contextlib.suppress(OSError):
                    shutil.copy(member["log"], self.directory / f"{member['name']}.log")


def programs(bin_dir):
    """Creates a directory with the programs of the tasks. Agents fetch only what all users can read."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="argosy-demo-"))
    directory.chmod(0o755)
    for name in TASK_PROGRAMS:
        shutil.copy(bin_dir / name, directory / name)
        (directory / name).chmod(0o755)
    return directory


def trees(tasks):
    """Returns the agents' cgroups, which contain those of the tasks."""
    return sorted({task["cgroup"].rpartition("/")[0] for task in tasks if "/argosy/" in task["cgroup"]})
