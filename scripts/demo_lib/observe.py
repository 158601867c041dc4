"""Processes, cgroups and mounts as the kernel reports them. Reads /proc only, and queries no cluster.

A process is identified by its id and its start time in clock ticks since boot, because the id alone
may be reused.
"""

import os
import pathlib


def read(path):
    """Returns the bytes of a file under /proc; None if the process is gone or not accessible."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def start_time(pid):
    """Returns clock ticks since boot; None if there is no such process, or only its zombie."""
    stat = read(f"/proc/{pid}/stat")
    if not stat:
        return None
    # The name in parentheses may contain any character, also spaces and parentheses.
    fields = stat[stat.rindex(b")") + 2:].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def lives(process):
    """Returns whether that very process (id, start time) still runs."""
    return start_time(process[0]) == process[1]


def numbers():
    """Returns the ids of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def environment(pid):
    """Returns the variables with which a process was started."""
    words = (read(f"/proc/{pid}/environ") or b"").decode(errors="replace").split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def link(pid, name):
    """Returns the target of a link such as cwd or exe; empty if it cannot be read."""
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return ""


def group(pid):
    """Returns the process' cgroup (version 2) below the mount point."""
    for line in (read(f"/proc/{pid}/cgroup") or b"").decode().splitlines():
        if line.startswith("0::"):
            return line[3:]
    return ""


def tasks(agents):
    """Returns the processes of all tasks of the agents with these addresses."""
    found = []
    for pid in numbers():
        variables = environment(pid)
        if variables.get("ARGOSY_AGENT_API") not in agents:
            continue
        started = start_time(pid)
        if started is not None:
            found.append({
                "task": variables.get("ARGOSY_TASK_ID", ""), "agent": variables["ARGOSY_AGENT_API"],
                "pid": pid, "start_time": started, "cgroup": group(pid),
            })
    return sorted(found, key=lambda process: (process["task"], process["pid"]))


def parents():
    """Returns the parent of each process, by id."""
    found = {}
    for pid in numbers():
        stat = read(f"/proc/{pid}/stat")
        if stat:
            found[pid] = int(stat[stat.rindex(b")") + 2:].split()[1])
    return found


def belonging(marker, directories, groups):
    """Returns the processes of a run, as (id, start time): those that have its marker in their
    environment, work in one of its directories or are in one of its cgroups, and all their descendants."""
    def is_marked(pid):
        variables = environment(pid)
        places = [link(pid, "cwd"), link(pid, "exe")]
        return (
            variables.get("DEMO_RUN") == marker
            or any(place.startswith(f"{directory}/") for place in places for directory in directories)
            or any(group(pid).startswith(f"{tree}/") for tree in groups)
        )

    parent = parents()
    ours = {pid for pid in parent if is_marked(pid)}
    before = 0
    while len(ours) > before:
        before = len(ours)
        ours |= {pid for pid in parent if parent[pid] in ours}
    processes = {(pid, start_time(pid)) for pid in ours}
    return {process for process in processes if process[1] is not None}


def cgroups():
    """Returns all cgroups of version 2, as directories."""
    for line in mounts():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            root = left.split()[4]
            return sorted(directory for directory, _, _ in os.walk(root))
    return []


def mounts():
    """Returns the lines of this process' mount table."""
    return pathlib.Path("/proc/self/mountinfo").read_text().splitlines()


def everything():
    """Returns the current state, for comparison with a later one."""
    processes = [[pid, start_time(pid)] for pid in numbers()]
    return {"processes": processes, "cgroups": cgroups(), "mounts": mounts()}


def left_over(before, processes, marker, directories, groups):
    """Returns what is new and belongs to the run, as messages; none if all is clean.

    `processes` are those seen during the run. Checked are these and all that belong to the run now;
    cgroups below one of `groups`; mounts that name one of the directories; the directories themselves.
    """
    known = {tuple(process) for process in before["processes"]}
    seen = {tuple(process) for process in processes if lives(process)}
    sentences = []
    for pid, _ in sorted((belonging(marker, directories, groups) | seen) - known):
        line = (read(f"/proc/{pid}/cmdline") or b"").replace(b"\0", b" ").decode(errors="replace")
        sentences.append(f"process {pid} is left: {line[:80]}")
    for path in sorted(set(cgroups()) - set(before["cgroups"])):
        if any(path.endswith(name) or f"{name}/" in path for name in groups):
            sentences.append(f"cgroup {path} is left")
    for line in sorted(set(mounts()) - set(before["mounts"])):
        if any(directory in line for directory in directories):
            sentences.append(f"mount {line.split()[4]} is left")
    return sentences + [f"directory {directory} is left" for directory in directories if os.path.exists(directory)]
