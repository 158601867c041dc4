"""The test of the Debian package on one host: installed, run, restarted, upgraded and purged."""

import subprocess
import tempfile
import time

from hosts_lib.machine import Failed, call

# Longer than any step takes on a busy machine.
STEP_S = 120
# The command line of the task that must outlive restarts and upgrades.
TASK = "sleep 86421"
# Where a purge may leave files: documented in docs/operate/service-units.md, or of Debian's own
# tools. Everything else must be as before the installation.
MAY_STAY = ("/root/.config", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid",
            "/etc/subgid", "/etc/.pwd.lock", "/var/log/", "/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/apt/",
            "/var/lib/systemd/", "/var/tmp/systemd-private", "/var/lib/private", "/root/packages", "/root/.ssh")
# Tries all listening ports of the host as a user who has neither a certificate nor a token, without
# TLS and with it, and prints those that answer a request.
PROBE = r"""
import concurrent.futures, socket, ssl, sys

def answer(port, encrypted):
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            if encrypted:
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                connection = context.wrap_socket(connection)
            connection.sendall(b"GET /v1/state HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(4096)
    except OSError:
        return b""

def check(work):
    port, encrypted = work
    found = answer(port, encrypted)
    # A refusal with its reason is no answer.
    refused = found.split(b"\r\n")[0].split(b" ")[1:2] in ([b"400"], [b"401"], [b"403"])
    if found and not refused:
        print(f"port {port}, {'TLS' if encrypted else 'plaintext'}: {found[:200]!r}")

work = [(int(port), encrypted) for port in sys.argv[1:] for encrypted in (False, True)]
with concurrent.futures.ThreadPoolExecutor(len(work)) as threads:
    list(threads.map(check, work))
print(f"tried {len(work)}")
"""


class Installed:
    """A host on which the package is installed, as root on it sees it."""

    def __init__(self, host, log):
        self.host, self.log = host, log

    def root(self, command):
        """Runs a command as root and returns its output. Raises Failed if it fails."""
        try:
            done = self.host.ssh(command, capture_output=True, text=True, errors="replace", timeout=STEP_S)
        except subprocess.TimeoutExpired:
            raise Failed(f"on host {self.host.name}: {command}: not done within {STEP_S} s\n{self.journal()}") from None
        if done.returncode:
            raise Failed(f"on host {self.host.name}: {command}: exit code {done.returncode}\n{done.stdout}{done.stderr}\n"
                         f"{self.journal()}")
        return done.stdout.strip()

    def journal(self):
        """Returns what the units have logged last."""
        return self.host.ssh("journalctl --no-pager --output cat --lines 40 --unit 'argosy-*'", capture_output=True, text=True,
                             errors="replace").stdout

    def until(self, command, what):
        """Repeats a command until it succeeds."""
        deadline = time.monotonic() + STEP_S
        while (done := self.host.ssh(command, capture_output=True, text=True, timeout=STEP_S)).returncode:
            if time.monotonic() > deadline:
                raise Failed(f"on host {self.host.name}, not within {STEP_S} s: {what}\n{done.stdout}{done.stderr}")
            time.sleep(0.1)

    def install(self, package):
        call(*self.host.run.network.inside(
            "scp", "-q", "-F", str(self.host.run.directory / "ssh_config"), str(package), f"{self.host.name}:/root/packages/"))
        return self.root(f"DEBIAN_FRONTEND=noninteractive apt-get install -y -q /root/packages/{package.name} 2>&1")

    def put(self, source, target):
        """Replaces a file, which only root can read, as a whole."""
        with source.open("rb") as content:
            done = self.host.ssh(f"umask 077 && cat > {target}.new && mv {target}.new {target}", stdin=content)
        if done.returncode:
            raise Failed(f"{source} cannot be copied to {target} of host {self.host.name}")

    def settings(self):
        """Allows missing controllers, if the machine has none to give to its hosts."""
        self.root("grep -qw memory /sys/fs/cgroup/cgroup.controllers || "
                  "echo ARGOSY_AGENT_ALLOW_MISSING_CONTROLLERS=true >> /etc/argosy/agent.env")

    def task(self):
        """Returns the process id of the task."""
        return self.root(f"pgrep -fx '{TASK}'")

    def adopted(self):
        self.until("argosy exec steady -- true", "the agent continues the task")

    def same(self, before, after):
        if self.task() != before:
            raise Failed(f"{after}, the task has another process: {before} before, {self.task()} after")

    def files(self):
        """Returns the paths of all files that the package may leave."""
        found = self.root("find / /var -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /dev \\) -prune "
                          "-o -print; find /run /tmp -name '*argosy*'").splitlines()
        return {path for path in found if not path.startswith(MAY_STAY)}

    def state(self):
        """Returns what the kernel has for Argosy: rules of nftables, links, mounts, cgroups, processes."""
        return self.root("nft list ruleset; ip -oneline link show | sed 's/ .*mtu.*//'; grep -c argosy /proc/self/mounts; "
                         "find /sys/fs/cgroup -name '*argosy*'; pgrep -a argosy; true")


def newer(package, directory, suffix="+1"):
    """Returns the same package with a higher version, and that version."""
    version = call("dpkg-deb", "--field", package, "Version").strip()
    tree = f"{directory}/tree"
    call("dpkg-deb", "--raw-extract", package, tree)
    call("sed", "-i", f"s/^Version: .*/Version: {version}{suffix}/", f"{tree}/DEBIAN/control")
    target = directory / package.name.replace(f"_{version}_", f"_{version}{suffix}_")
    call("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, target)
    return target, f"{version}{suffix}"


def first_run(installed, package):
    """The start of a newcomer: install, start, run a command."""
    steps = [("install", lambda: installed.install(package)), ("settings", installed.settings),
             ("start", lambda: installed.root("systemctl start argosy-master argosy-agent")),
             ("run", lambda: installed.root("argosy run -- echo hello"))]
    times = []
    for name, step in steps:
        begun = time.monotonic()
        printed = step()
        times.append((name, time.monotonic() - begun))
    if "hello" not in printed.splitlines():
        raise Failed(f"argosy run -- echo hello printed: {printed}")
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times)
    installed.log(f"from the package to hello: {sum(seconds for _, seconds in times):.1f} s ({parts})")


def restarts(installed, package):
    """Stops, restarts and upgrades under a running task."""
    installed.root(f"argosy run --detach --name steady -- {TASK}")
    installed.root("argosy wait task steady --for running --timeout 60s")
    pid = installed.task()
    installed.root("systemctl stop argosy-agent")
    installed.same(pid, "after a stop of the agent's unit")
    installed.root("systemctl start argosy-agent")
    installed.adopted()
    installed.root("systemctl restart argosy-agent")
    installed.adopted()
    installed.root("systemctl restart argosy-master")
    installed.adopted()
    installed.same(pid, "after restarts of both units")
    installed.log(f"the units were stopped and restarted: task {pid} still runs")
    with tempfile.TemporaryDirectory() as directory:
        target, version = newer(package, type(package)(directory))
        running = installed.root("systemctl show --value --property MainPID argosy-master argosy-agent")
        installed.install(target)
        found = installed.root("dpkg-query --show --showformat='${Version}' argosy")
        if found != version:
            raise Failed(f"version {found} is installed, and not {version}")
        if installed.root("systemctl show --value --property MainPID argosy-master argosy-agent") != running:
            raise Failed("the upgrade of the package has restarted a unit; the operator decides when")
    installed.root("systemctl restart argosy-master argosy-agent")
    installed.adopted()
    installed.same(pid, "after an upgrade of the package")
    installed.log(f"the package was upgraded: task {pid} still runs")


def closed(installed):
    """Another user of the host gets nothing from ports, files and commands."""
    ports = installed.root("ss --listening --tcp --numeric --processes | grep argosy | "
                           "sed -E 's/^LISTEN +[0-9]+ +[0-9]+ +[^ ]*:([0-9]+) .*/\\1/' | sort -un").split()
    if not {"5050", "5051", "5052"} <= set(ports):
        raise Failed(f"master and agent listen on {ports}, and not on 5050, 5051 and 5052")
    done = subprocess.run(
        installed.host.ssh_command(f"runuser --user visitor -- python3 - {' '.join(ports)}"),
        input=PROBE, capture_output=True, text=True, timeout=STEP_S)
    if done.returncode or done.stdout != f"tried {2 * len(ports)}\n":
        raise Failed(f"another user of the host gets an answer: {done.stdout}{done.stderr}")
    readable = installed.root("runuser --user visitor -- find /etc/argosy /var/lib/argosy \\( -name '*.key' -o -path '*/master/*' "
                              "-o -path '*/agent/*' \\) -readable 2> /dev/null || true")
    if readable:
        raise Failed(f"another user of the host can read {readable}")
    for command in ("argosy status --timeout 5s", "argosy run --timeout 5s -- true", "argosy agent stop --timeout 5s"):
        if not installed.host.ssh(f"runuser --login visitor --command '{command}'", capture_output=True).returncode:
            raise Failed(f"another user of the host can run {command}")
    installed.log(f"another user of the host gets nothing from the ports {' '.join(ports)}")


def purged(installed, package, before):
    """Purges under a running task, which keeps its data, and without one, which leaves nothing."""
    files, state = before
    pid = installed.task()
    installed.root("DEBIAN_FRONTEND=noninteractive apt-get purge -y -q argosy 2>&1")
    installed.same(pid, "after a purge")
    installed.install(package)
    # dpkg itself removes files of settings at each purge.
    installed.settings()
    installed.root("systemctl start argosy-master argosy-agent")
    installed.adopted()
    installed.same(pid, "after a purge and a new installation")
    installed.root("argosy task kill steady --timeout 30s")
    installed.root("DEBIAN_FRONTEND=noninteractive apt-get purge -y -q argosy 2>&1")
    left = installed.files() - files
    if left:
        raise Failed(f"a purge has left {len(left)} files: {' '.join(sorted(left)[:20])}")
    if installed.state() != state:
        raise Failed(f"a purge has left in the kernel:\n{installed.state()}\nbefore the installation:\n{state}")
    installed.root("getent passwd argosy")
    installed.log("a purge keeps the data of a running task; without tasks it leaves no file, rule, mount or cgroup")


def test_package(host, package, log):
    """Tests the package on a host without it."""
    installed = Installed(host, log)
    installed.root("mkdir -p /root/packages")
    before = installed.files(), installed.state()
    first_run(installed, package)
    closed(installed)
    restarts(installed, package)
    purged(installed, package, before)
