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

# Records of all agents of this kernel: leased user ids, and changes of network namespaces.
RECORDS = pathlib.Path("/run/argosy")
# Longer than the timeouts that pages name.
BLOCK_S = 180
# Prints the cookie of the present network namespace (SO_NETNS_COOKIE).
PRINT_COOKIE = 'import socket; print(int.from_bytes(socket.socket().getsockopt(1, 71, 8), "little"))'


class Failed(Exception):
    """An expected event that did not happen."""


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Running:
    """A block of commands that runs until Ctrl-C."""

    def __init__(self, command, file, **options):
        self.file = file
        with file.open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL, start_new_session=True, **options)

    def __enter__(self):
        return self

    def output(self):
        return self.file.read_text(errors="replace")

    def has_ended(self):
        return self.process.poll() is not None

    def interrupt(self):
        """Presses Ctrl-C. Raises Failed if the commands do not end, or have failed."""
        if self.has_ended():
            raise Failed(f"ended with {self.process.returncode} before Ctrl-C:\n{self.output()}")
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            raise Failed(f"does not end after Ctrl-C:\n{self.output()}") from None
        if status not in (0, 128 + signal.SIGINT, -signal.SIGINT):
            raise Failed(f"ended with {status} after Ctrl-C:\n{self.output()}")

    def __exit__(self, *_):
        if not self.has_ended():
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Machine:
    """A network namespace with one address, a host name and a separate home directory."""

    def __init__(self, number, address, host, home, argosy):
        self.name = f"argosy{os.getpid()}-{number}"
        self.address, self.host, self.home, self.number = address, host, home / str(number), number
        self.has_master, self.killed = True, False
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

    def command(self, block):
        """Returns the command that runs a block. Exported variables last from one block to the next."""
        # `ip netns` mounts /sys again, without the cgroups that a separate machine would have
        # there.
        begin = f"""hostname {self.host}
mount -t cgroup2 none /sys/fs/cgroup
[ ! -e ~/.session ] || . ~/.session
trap 'export -p > ~/.session' EXIT
set -e -o pipefail"""
        return ["ip", "netns", "exec", self.name, "unshare", "--uts", "bash", "-c", f"{begin}\n{block}"]

    def run(self, block):
        """Returns the exit status of a block and its output."""
        try:
            done = subprocess.run(
                self.command(block), env=self.environment, cwd=self.home, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=BLOCK_S)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"{self.address}: still runs after {BLOCK_S} s:\n{(late.output or b'').decode(errors='replace')}") from None
        return done.returncode, done.stdout

    def start(self, block):
        """Starts a block that runs until Ctrl-C."""
        return Running(self.command(block), self.home / ".output", env=self.environment, cwd=self.home)

    def processes(self):
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def commands(self):
        """Returns the command lines of all processes in the control groups of the agent."""
        found = []
        for file in [file for group in self.groups() for file in group.glob("**/cgroup.procs")]:
            # A process may end, and its group disappear, while this reads them.
            with contextlib.suppress(OSError):
                for pid in file.read_text().split():
                    with contextlib.suppress(OSError):
                        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                        found.append(b" ".join(words).decode(errors="replace").strip())
        return found

    def clear(self):
        """Ends and removes everything on the machine, also tasks, which have other namespaces."""
        if (self.home / "agent").exists():
            with contextlib.suppress(Failed):
                self.run("argosy agent stop --kill-tasks --grace 0s")
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
        cookie = self.run(f"{sys.executable} -c '{PRINT_COOKIE}'")[1].strip()
        for note in (RECORDS / "networks").glob(f"forwarding*-cookie-{cookie}") if cookie else []:
            note.unlink()
        for lease in (RECORDS / "ids").glob("*"):
            if lease.is_symlink() and os.readlink(lease).startswith(f"{self.home}/"):
                lease.unlink()
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

    def __init__(self, hosts, argosy):
        """`hosts` are the addresses of the machines with their names."""
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="argosy-pages-")).resolve()
        # Agents without root privileges traverse it to their own directories.
        self.home.chmod(0o711)
        self.switch = f"argosy{os.getpid()}-switch"
        self.machines = [Machine(at, address, host, self.home, argosy)
                         for at, (address, host) in enumerate(hosts.items(), 1)]

    def __enter__(self):
        # The stage of the gate ends a test that takes too long by this signal.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
        # A program that a script starts in the background ignores Ctrl-C, and so would the blocks.
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, signal.SIG_IGN)
        for machine in self.machines:
            machine.clear()
        subprocess.run(["ip", "netns", "del", self.switch], check=False)
        shutil.rmtree(self.home, ignore_errors=True)
