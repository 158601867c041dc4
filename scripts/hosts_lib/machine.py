"""What a set of test hosts uses of the machine: processes in cgroups, and a network namespace."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time

# Killed processes end within milliseconds, unless the kernel still writes for them to a slow disk.
END_S = 60


class Failed(Exception):
    """A sentence for the user: what failed, where, and what to do."""


def call(*words, **options):
    """Runs a program and returns its output. Raises Failed with what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, **options)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, words))} failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
    return done.stdout


def cgroup_mounts():
    """Returns where the cgroup v2 hierarchy is mounted, and that of systemd in version 1, if there is one."""
    unified, named = None, None
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        place = pathlib.Path(before.split()[4])
        if kind == "cgroup2":
            unified = unified or place
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            named = named or place
    if not unified:
        raise Failed("no cgroup v2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")
    return unified, named


class Cgroup:
    """A cgroup with all its descendants, and the processes in them."""

    def __init__(self, path, copy=None):
        """`copy` is the directory that nspawn makes of it in the hierarchy of version 1, if there is one."""
        self.path, self.copy = path, copy

    @classmethod
    def named(cls, name):
        unified, named = cgroup_mounts()
        return cls(unified / name, named and named / name)

    def __truediv__(self, name):
        return Cgroup(self.path / name, self.copy and self.copy / name)

    def make(self):
        self.path.mkdir(exist_ok=True)

    def pass_controllers(self):
        """Gives the groups below the controllers that this group has, so it may have no processes."""
        for controller in (self.path / "cgroup.controllers").read_text().split():
            (self.path / "cgroup.subtree_control").write_text(f"+{controller}")

    def processes(self):
        """Returns the ids of the processes in the group and its descendants."""
        found = []
        for directory, _, _ in os.walk(self.path):
            try:
                found += map(int, (pathlib.Path(directory) / "cgroup.procs").read_text().split())
            except OSError:
                # Removed since it was listed.
                continue
        return found

    def remove(self):
        """Kills all processes of the group, and removes it with its descendants."""
        deadline = time.monotonic() + END_S
        while True:
            try:
                if self.path.exists():
                    (self.path / "cgroup.kill").write_text("1")
                    remove_groups(self.path)
                if self.copy:
                    remove_groups(self.copy)
                return
            except FileNotFoundError:
                continue
            except OSError as why:
                # The killed processes are still exiting.
                if time.monotonic() > deadline:
                    raise Failed(f"{self.path} cannot be removed: {why}; processes {self.processes()}") from None
                time.sleep(0.02)


def remove_groups(top):
    """Removes the directories of cgroups without processes. Their files disappear with them."""
    for directory, _, _ in os.walk(top, topdown=False):
        os.rmdir(directory)


class Network:
    """A network namespace with a bridge, which reaches nothing else, and one for hosts that are cut off."""

    BRIDGE = "hosts"
    RACK = "rack"
    ADDRESS = "10.77.0.1"

    def __init__(self, name):
        self.name = name
        self.path = pathlib.Path("/run/netns") / name

    def make(self):
        """Makes what a former run has not made or not finished."""
        if not self.path.exists():
            call("ip", "netns", "add", self.name)
        ip = ("ip", "-n", self.name)
        bridges = call(*ip, "-oneline", "link", "show", "type", "bridge")
        for bridge in (self.BRIDGE, self.RACK):
            if f" {bridge}:" not in bridges:
                call(*ip, "link", "add", bridge, "type", "bridge")
        call(*ip, "address", "replace", f"{self.ADDRESS}/24", "dev", self.BRIDGE)
        for link in ("lo", self.BRIDGE, self.RACK):
            call(*ip, "link", "set", link, "up")

    def connect(self, link, bridge):
        """Connects a host's link to a bridge instead of the one it is connected to."""
        call("ip", "-n", self.name, "link", "set", link, "master", bridge)

    def remove_link(self, link):
        """Removes the link of a host that has ended. The kernel does so, too, but later."""
        with contextlib.suppress(Failed):
            call("ip", "-n", self.name, "link", "delete", link)

    def inside(self, *command):
        """Returns the command that runs a command in the namespace, with the machine's own files."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def remove(self):
        if self.path.exists():
            call("ip", "netns", "delete", self.name)


def remove_directory(path):
    """Removes a directory of a run, which contains no mounts."""
    deadline = time.monotonic() + END_S
    while path.exists():
        try:
            shutil.rmtree(path)
        except OSError:
            # A program of a killed command may still write to it, until it notices that.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
