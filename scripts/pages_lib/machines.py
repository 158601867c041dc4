"""Machines made of network namespaces, each with one address, a directory and a host name."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time


# Records of all agents of this kernel, with one for each network namespace whose forwarding was changed.
NETWORKS = pathlib.Path("/run/argosy/networks")
# Prints the cookie of the present network namespace (SO_NETNS_COOKIE).
PRINT_COOKIE = 'import socket; print(int.from_bytes(socket.socket().getsockopt(1, 71, 8), "little"))'


class Failed(Exception):
    """An expected event that did not happen."""


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Machine:
    """A network namespace with one address and a separate home directory."""

    def __init__(self, number, address, home, argosy):
        self.name = f"argosy{os.getpid()}-{number}"
        self.address, self.home, self.number = address, home / str(number), number
        self.killed = False
        (self.home / "bin").mkdir(parents=True)
        (self.home / "bin" / "argosy").symlink_to(argosy)
        # Substitutes for the directories of a separate machine. The page names none of them.
        self.environment = {
            "PATH": f"{self.home}/bin:{os.environ['PATH']}",
            "HOME": str(self.home),
            "ARGOSY_MASTER_DATA_DIR": str(self.home / "master"),
            "ARGOSY_AGENT_DATA_DIR": str(self.home / "agent"),
            "ARGOSY_AGENT_RESOURCES": "cpus:1;mem:256",
            "ARGOSY_AGENT_ALLOW_MISSING_CONTROLLERS": "true",
            "LC_ALL": "C",
        }

    def connect(self, switch):
        ip("netns", "add", self.name)
        outer, inner = f"av{os.getpid()}{self.number}"[-14:], "eth0"
        ip("link", "add", outer, "netns", switch, "type", "veth", "peer", "name", inner, "netns", self.name)
        ip("-n", switch, "link", "set", outer, "master", "bridge0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", inner)
        ip("-n", self.name, "link", "set", inner, "up")

    def run(self, block):
        # `ip netns` mounts /sys again, without the cgroups that a separate machine would have
        # there.
        begin = f"hostname machine-{self.number}\nmount -t cgroup2 none /sys/fs/cgroup"
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, "unshare", "--uts", "bash", "-c", f"{begin}\n{block}"],
            env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        return done.returncode, done.stdout

    def processes(self):
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def clear(self):
        """Ends and removes everything on the machine, also tasks, which have other namespaces."""
        if (self.home / "agent").exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.run("argosy agent stop --kill-tasks")
        for _ in range(100):
            pids = self.processes()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.05)
        for group in self.groups():
            remove_group(group)
        cookie = self.run(f"python3 -c '{PRINT_COOKIE}'")[1].strip()
        for note in NETWORKS.glob(f"forwarding*-cookie-{cookie}") if cookie else []:
            note.unlink()
        subprocess.run(["ip", "netns", "del", self.name], check=False)

    def groups(self):
        """Returns the control groups of the agent, which are named by a hash of its directory."""
        mount = next((line.split()[4] for line in open("/proc/self/mountinfo") if " - cgroup2 " in line), None)
        digest = hashlib.sha256(str(self.home / "agent").encode()).hexdigest()[:12]
        names = [f"agent-{digest}", f"agent-{digest}.content"] if mount else []
        return [group for group in (pathlib.Path(mount) / "argosy" / name for name in names) if group.exists()]


def remove_group(group):
    """Kills what is left in a control group and removes it."""
    (group / "cgroup.kill").write_text("1")
    for last in [False] * 100 + [True]:
        try:
            for directory, _, _ in os.walk(group, topdown=False):
                os.rmdir(directory)
            return
        except OSError:
            # The killed processes are still exiting.
            if last:
                raise
            time.sleep(0.05)


class Network:
    """Machines that are connected by a switch, and their removal with all that they contain."""

    def __init__(self, addresses, argosy):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="argosy-pages-")).resolve()
        # Agents without root privileges traverse it to their own directories.
        self.home.chmod(0o711)
        self.switch = f"argosy{os.getpid()}-switch"
        self.machines = [Machine(at + 1, address, self.home, argosy) for at, address in enumerate(addresses)]

    def __enter__(self):
        return self

    def connect(self):
        ip("netns", "add", self.switch)
        ip("-n", self.switch, "link", "add", "bridge0", "type", "bridge")
        ip("-n", self.switch, "link", "set", "bridge0", "up")
        for machine in self.machines:
            machine.connect(self.switch)

    def print_logs(self):
        for file in sorted(self.home.glob("*/*.log")):
            print(f"--- {file}", *file.read_text().splitlines()[-20:], sep="\n", file=sys.stderr)

    def check_ended(self):
        """Raises Failed if processes of the machines do not end by themselves."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            left = {machine.address: machine.processes() for machine in self.machines}
            if not any(left.values()):
                return
            time.sleep(0.1)
        raise Failed(f"processes are left: {left}")

    def __exit__(self, *_):
        for machine in self.machines:
            machine.clear()
        subprocess.run(["ip", "netns", "del", self.switch], check=False)
        shutil.rmtree(self.home, ignore_errors=True)
