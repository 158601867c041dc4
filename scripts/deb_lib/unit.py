"""Runs the command of a unit as systemd would, as far as a test needs it: environment, user,
capabilities, credentials, a delegated cgroup, notifications. No file system, system calls or devices
are restricted."""

import os
import pathlib
import pwd
import select
import shlex
import shutil
import signal
import socket
import subprocess
import time

# Enters a group, and executes the rest of its arguments.
ENTER = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'


class Failed(Exception):
    """An expected event that did not happen."""


def settings(file):
    """Returns the settings of a unit: a list of values for each name, reset by an empty one."""
    found = {}
    for line in file.read_text().splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith(("#", "[")):
            found[name] = found.get(name, []) + [value] if value else []
    return found


def cgroups():
    """Returns the mount point of cgroup2."""
    mounts = (line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines())
    return next(pathlib.Path(mount[1]) for mount in mounts if mount[2] == "cgroup2")


def environment(file):
    """Returns the variables of an environment file."""
    lines = (line.strip() for line in file.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


class Unit:
    """A service. `file` is its unit; `bin_dir` replaces /usr/bin in its command."""

    def __init__(self, file, bin_dir, log):
        self.name, self.settings, self.bin_dir, self.log = file.name, settings(file), bin_dir, log
        self.process, self.socket = None, None
        self.group = cgroups() / f"argosy-deb-test-{os.getpid()}-{self.name}"

    def last(self, name, default=None):
        values = self.settings.get(name)
        return values[-1] if values else default

    def variables(self, directory):
        found = {"PATH": f"{self.bin_dir}:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        for value in self.settings.get("Environment", []):
            name, value = value.split("=", 1)
            found[name] = value.replace("%d", str(directory))
        for file in self.settings.get("EnvironmentFile", []):
            found.update(environment(pathlib.Path(file)))
        return found

    def credentials(self, user):
        directory = self.log.parent / "credentials" / self.name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for value in self.settings.get("LoadCredential", []):
            name, source = value.split(":", 1)
            copy = directory / name
            shutil.copyfile(source, copy)
            copy.chmod(0o400)
            os.chown(copy, user.pw_uid, user.pw_gid)
        os.chown(directory, user.pw_uid, user.pw_gid)
        directory.chmod(0o500)
        return directory

    def command(self, user):
        """Returns the command with the privileges of the unit."""
        words = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        kept = " ".join(self.settings["CapabilityBoundingSet"]).split()
        names = [name.removeprefix("CAP_").lower() for name in kept]
        words += ["--bounding-set", ",".join(["-all", *(f"+{name}" for name in names)])]
        if self.last("NoNewPrivileges") == "yes":
            words.append("--no-new-privs")
        program, *arguments = shlex.split(self.last("ExecStart"))
        here = f"{self.bin_dir}/{program.removeprefix('/usr/bin/')}" if program.startswith("/usr/bin/") else program
        words += [here, *arguments]
        if self.last("Delegate") != "yes":
            return words
        self.group.mkdir(exist_ok=True)
        os.setxattr(self.group, "trusted.delegate", b"1")
        return ["sh", "-c", ENTER, "enter", self.group, *words]

    def start(self, **more):
        """Starts the service, and waits for READY=1. Returns the messages until then."""
        user = pwd.getpwnam(self.last("User", "root"))
        state = self.last("StateDirectory")
        if state:
            place = pathlib.Path("/var/lib") / state
            place.mkdir(parents=True, exist_ok=True, mode=0o755)
            os.chown(place, user.pw_uid, user.pw_gid)
        variables = {**self.variables(self.credentials(user)), **more}
        address = f"\0argosy-deb-test-{os.getpid()}-{self.name}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        variables["NOTIFY_SOCKET"] = "@" + address[1:]
        period = int(self.last("WatchdogSec"))
        variables["WATCHDOG_USEC"] = str(period * 1_000_000)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(user), env=variables, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, cwd="/", start_new_session=True)
        return self.wait_for("READY=1", 60)

    def wait_for(self, wanted, seconds):
        """Returns the messages up to one that contains a line."""
        until, found = time.monotonic() + seconds, []
        while True:
            readable, _, _ = select.select([self.socket], [], [], max(0, until - time.monotonic()))
            if not readable:
                raise Failed(f"{self.name} has not sent {wanted} after {seconds} s, only {found}:\n{self.tail()}")
            found.append(self.socket.recv(4096).decode())
            if wanted in found[-1].splitlines():
                return found

    def tail(self):
        return self.log.read_text(errors="replace")[-3000:]

    def run_once(self):
        """Runs a service of the type oneshot. Returns its exit status and its output."""
        done = subprocess.run(shlex.split(self.last("ExecStart")), env={**self.variables("/none"), "HOME": os.environ["HOME"]},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def remove(self):
        """Ends what is left of it, and removes its group."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.group.exists():
            (self.group / "cgroup.kill").write_text("1")
            until = time.monotonic() + 30
            while "populated 1" in (self.group / "cgroup.events").read_text() and time.monotonic() < until:
                time.sleep(0.02)
            self.group.rmdir()

    def stop(self):
        """Stops it by SIGTERM to its first process alone, as KillMode=process does."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"{self.name} does not stop:\n{self.tail()}") from None
        if status != 0:
            raise Failed(f"{self.name} ended with {status}:\n{self.tail()}")
