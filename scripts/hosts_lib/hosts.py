"""Sets of test hosts: Debian with systemd and sshd, booted by systemd-nspawn.

Each host has its own files, cgroup, network interface, machine id and ssh keys. Its mounts are in a
mount namespace that ends with its processes. A run is a set of hosts on one bridge. All names are
derived from its directory, so that `down` finds what any former process has left.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import time
import uuid

from hosts_lib.machine import Cgroup, Failed, Network, call, remove_directory

SCRIPTS = pathlib.Path(__file__).resolve().parent.parent
# A boot takes two seconds, and longer on a busy machine.
BOOT_S = 120
# The interface name `vb-NAME` has at most 15 characters.
NAME = re.compile(r"[a-z][a-z0-9-]{0,11}")

# Joins the cgroup before anything else: without machined, nspawn would put all hosts into one group
# `payload`. The directory of nspawn's locks is that of this host only.
BOOT = """
echo $$ > "$GROUP/cgroup.procs"
exec nsenter --net="$NAMESPACE" unshare --mount --propagation private bash -euc '
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
mount -t overlay overlay -o "lowerdir=$IMAGE,upperdir=$HOST/upper,workdir=$HOST/work" "$HOST/root"
exec systemd-nspawn "$@"' boot "$@"
"""

FILES = {
    "etc/hostname": "{name}\n",
    "etc/machine-id": "{machine_id}\n",
    "etc/hosts": "127.0.0.1 localhost\n{others}",
    "etc/systemd/network/10-host0.network":
        "[Match]\nName=host0\n[Network]\nAddress={address}/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    "root/.ssh/authorized_keys": "{key}",
}


class Host:
    """One host of a run: a name, an address, and the Ansible groups it is in."""

    def __init__(self, run, number, name, groups):
        self.run, self.number, self.name, self.groups = run, number, name, groups
        self.address = f"10.77.0.{10 + number}"
        self.directory = run.directory / name
        self.cgroup = run.cgroup / name

    def make(self, image):
        """Makes the files that distinguish the host from the image, once."""
        if (self.directory / "made").exists():
            return
        remove_directory(self.directory)
        upper = self.directory / "upper"
        for name in ("root", "work", "upper/etc/ssh", "upper/etc/systemd/network"):
            (self.directory / name).mkdir(parents=True)
        (upper / "root").mkdir(mode=0o700)
        (upper / "root/.ssh").mkdir(mode=0o700)
        # An overlay cannot be the upper layer of another, and agents make some in /var.
        call("cp", "--archive", f"{image}/var", f"{self.directory}/var")
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", f"{upper}/etc/ssh/ssh_host_ed25519_key")
        values = {"name": self.name, "address": self.address, "machine_id": uuid.uuid4().hex,
                  "others": self.run.names(), "key": self.run.public_key()}
        for name, text in FILES.items():
            (upper / name).write_text(text.format(**values))
        (self.directory / "made").touch()

    def is_running(self):
        return bool(self.cgroup.processes())

    def power_off(self):
        """Ends the host like a power cut. `Run.up` boots it again with its files."""
        self.cgroup.remove()
        self.run.network.remove_link(f"vb-{self.name}")

    def destroy(self):
        """Ends the host and removes its files. `Run.up` makes a new host of the same name and address."""
        self.power_off()
        remove_directory(self.directory)

    def cut(self):
        """Cuts the host off from the network. It still reaches the other hosts that are cut off."""
        self.run.network.connect(f"vb-{self.name}", self.run.network.RACK)

    def connect(self):
        """Connects a host again that was cut off."""
        self.run.network.connect(f"vb-{self.name}", self.run.network.BRIDGE)

    def start(self, image):
        """Boots the host, unless it runs."""
        if self.is_running():
            return
        self.cgroup.remove()
        self.cgroup.make()
        words = [
            "--quiet", "--boot", "--register=no", "--keep-unit", "--settings=no", "--console=pipe",
            f"--directory={self.directory}/root", f"--bind={self.directory}/var:/var", f"--machine={self.name}",
            f"--network-bridge={self.run.network.BRIDGE}", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
            # Agents filter ports and devices of tasks by it.
            "--capability=CAP_BPF,CAP_PERFMON", "--system-call-filter=bpf",
        ]
        environment = {**os.environ, "GROUP": str(self.cgroup.path), "NAMESPACE": str(self.run.network.path),
                       "IMAGE": str(image), "HOST": str(self.directory), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with (self.directory / "console").open("w") as console:
            subprocess.Popen(["bash", "-euc", BOOT, "boot", *words], env=environment, stdin=subprocess.DEVNULL,
                             stdout=console, stderr=subprocess.STDOUT, start_new_session=True)

    def wait(self):
        """Waits until the host has booted and answers by ssh."""
        deadline = time.monotonic() + BOOT_S
        while True:
            done = self.ssh("systemctl is-system-running --wait", capture_output=True, text=True, timeout=BOOT_S)
            if done.stdout.strip() == "running":
                return
            if done.stdout.strip() == "degraded":
                failed = self.ssh("systemctl --failed --plain --no-legend", capture_output=True, text=True).stdout
                raise Failed(f"units of host {self.name} have failed: {failed.strip()}")
            if not self.is_running() or time.monotonic() > deadline:
                raise Failed(f"host {self.name} has not booted: {done.stderr.strip()}\n{self.console()}")
            time.sleep(0.05)

    def console(self):
        with contextlib.suppress(OSError):
            return "\n".join((self.directory / "console").read_text(errors="replace").splitlines()[-20:])
        return ""

    def ssh(self, command, **options):
        """Runs a command of the shell by ssh, as root."""
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(self.ssh_command(command), check=False, **options)

    def ssh_command(self, *command):
        return self.run.network.inside("ssh", "-F", str(self.run.directory / "ssh_config"), self.name, *command)

    def first_process(self):
        """Returns the process id of the host's systemd on the machine."""
        for pid in self.cgroup.processes():
            with contextlib.suppress(OSError):
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
                ids = re.search(r"^NSpid:\s*(.*)$", status, re.M).group(1).split()
                if len(ids) == 2 and ids[1] == "1":
                    return pid
        raise Failed(f"host {self.name} does not run; start it: scripts/test-hosts up {self.name}")

    def console_command(self, command):
        """Returns the command that runs a command on the host without its network."""
        namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        return ["nsenter", f"--target={self.first_process()}", *namespaces, "--",
                "systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--", "sh", "-c", command]


class Run:
    """A set of test hosts on one bridge."""

    def __init__(self, name="default"):
        self.name = name
        cache = pathlib.Path(os.environ["ARGOSY_CACHE"]).resolve()
        # Other checkouts with this cache have other runs.
        short = hashlib.sha256(f"{SCRIPTS} {cache} {name}".encode()).hexdigest()[:8]
        self.directory = cache / "hosts" / f"run-{name}-{short}"
        self.network = Network(f"argosy-hosts-{short}")
        self.cgroup = Cgroup.named(f"argosy-hosts-{short}")
        self.hosts = []

    @contextlib.contextmanager
    def locked(self, suffix=".lock"):
        """Excludes other processes that change this run. The lock ends with the process."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with self.directory.with_suffix(suffix).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def alone(self):
        """Excludes other tests on this run, which changes several times during a test."""
        return self.locked(".test")

    def read(self):
        """Reads which hosts there are."""
        with contextlib.suppress(FileNotFoundError):
            found = json.loads((self.directory / "hosts.json").read_text())
            self.hosts = [Host(self, number, *host) for number, host in enumerate(found, 1)]
        return self

    def host(self, name):
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts) or "none"
        raise Failed(f"no host {name} in {self.directory}; there are: {known}")

    def regroup(self, groups):
        """Changes the Ansible groups of hosts, by their names."""
        for name, wanted in groups.items():
            self.host(name).groups = wanted
        self.write()

    def up(self, wanted):
        """Makes and boots hosts, each `NAME` or `GROUP,GROUP:NAME`, and waits for them."""
        image = call(SCRIPTS / "host-image").strip()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.read()
        for text in wanted:
            groups, _, name = text.rpartition(":")
            if not NAME.fullmatch(name):
                raise Failed(f"{name} is no name of a host: lower-case letters, digits and hyphens, at most 12")
            if name not in [host.name for host in self.hosts]:
                self.hosts.append(Host(self, len(self.hosts) + 1, name, [group for group in groups.split(",") if group]))
        self.write()
        self.network.make()
        self.cgroup.make()
        self.cgroup.pass_controllers()
        chosen = [self.host(text.rpartition(":")[2]) for text in wanted]
        for host in chosen:
            host.make(image)
        self.write_known_hosts()
        for host in chosen:
            host.start(image)
        for host in chosen:
            host.wait()

    def names(self):
        """Returns the lines of /etc/hosts that name all hosts."""
        return "".join(f"{host.address} {host.name}\n" for host in self.hosts)

    def public_key(self):
        """Returns the public key that hosts accept for root, which is made once per run."""
        key = self.directory / "key"
        if not key.with_suffix(".pub").exists():
            key.unlink(missing_ok=True)
            call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test-hosts", "-f", key)
        return key.with_suffix(".pub").read_text()

    def write(self):
        """Writes which hosts there are, for later commands, ssh and Ansible."""
        self.put("hosts.json", json.dumps([[host.name, host.groups] for host in self.hosts]))
        self.put("ssh_config", "".join(f"Host {host.name}\nHostName {host.address}\n" for host in self.hosts) + f"""Host *
User root
IdentityFile {self.directory}/key
IdentitiesOnly yes
UserKnownHostsFile {self.directory}/known_hosts
GlobalKnownHostsFile none
StrictHostKeyChecking yes
BatchMode yes
ConnectTimeout 5
LogLevel ERROR
""")
        groups = {}
        for host in self.hosts:
            for group in host.groups or ["ungrouped"]:
                groups.setdefault(group, []).append(f"{host.name} ansible_host={host.address}\n")
        lines = [f"[{group}]\n{''.join(hosts)}" for group, hosts in groups.items()]
        self.put("inventory.ini", "\n".join(lines) + f"""
[all:vars]
ansible_user=root
ansible_python_interpreter=/usr/bin/python3
ansible_ssh_common_args=-F {self.directory}/ssh_config
""")

    def write_known_hosts(self):
        lines = []
        for host in self.hosts:
            with contextlib.suppress(FileNotFoundError):
                key = (host.directory / "upper/etc/ssh/ssh_host_ed25519_key.pub").read_text()
                lines.append(f"{host.name},{host.address} {key}")
        self.put("known_hosts", "".join(lines))

    def put(self, name, text):
        """Replaces a file of the run as a whole."""
        new = self.directory / f"{name}.new"
        new.write_text(text)
        new.rename(self.directory / name)

    def execute(self, command):
        """Replaces this process by a command in the network of the hosts. `down` ends what is left of it."""
        group = self.cgroup / "_exec"
        group.make()
        (group.path / "cgroup.procs").write_text(str(os.getpid()))
        words = self.network.inside(*command)
        os.execvp(words[0], words)

    def down(self):
        """Ends and removes everything of this run, also what killed processes have left."""
        self.cgroup.remove()
        self.network.remove()
        remove_directory(self.directory)
