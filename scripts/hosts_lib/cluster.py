"""The test of the Ansible collection: a cluster of nine hosts, from its deployment to its removal."""

import json

from hosts_lib.machine import Failed, call
from hosts_lib.package import Installed, newer
from hosts_lib.play import Play

MASTERS = ["m1", "m2", "m3"]
AGENTS = ["a1", "a2", "a3"]
# They become masters for one step.
SPARE = ["m4", "m5"]
HOSTS = [*(f"masters:{name}" for name in MASTERS), *(f"agents:{name}" for name in AGENTS), "monitoring:p1",
         *(f"spare:{name}" for name in SPARE)]


class Cluster:
    """The hosts of the test, and the controller, which is this machine in their network."""

    def __init__(self, run, package, log):
        self.run, self.package, self.log = run, package, log
        self.built = package
        self.harness = next(package.parent.glob("argosy-chaos_*.deb"))
        # That of the package, as on a real controller. It is copied to hosts without a package, so it must be small.
        call("dpkg-deb", "--extract", package, run.directory / "controller")
        self.program = run.directory / "controller/usr/bin/argosy"
        self.hosts = {host.name: Installed(host, log) for host in run.hosts}
        self.masters = [self.hosts[name] for name in MASTERS]
        self.agents = [self.hosts[name] for name in AGENTS]
        self.authority = max(run.directory.glob("ca-[0-9]"), default=run.directory / "ca-1")
        masters = ",".join(master.host.address for master in self.masters)
        reach = f"ARGOSY_MASTERS={masters} ARGOSY_TLS_CA=/etc/argosy/tls/ca.crt"
        # Of the host for monitoring: that of this test, and that of Prometheus.
        self.operator = f"{reach} ARGOSY_TLS_CERT=/var/tmp/operator.crt ARGOSY_TLS_KEY=/var/tmp/operator.key"
        self.prometheus = (f"{reach} ARGOSY_TLS_CERT=/etc/argosy/tls/framework.crt "
                           "ARGOSY_TLS_KEY=/etc/argosy/tls/framework.key")

    def play(self, book, *words):
        """Runs a playbook. Returns the number of tasks that have changed something."""
        return self.finish(Play(self, book, *words))

    def finish(self, play):
        if not play.wait():
            raise Failed(f"{play.title} ended with {play.process.returncode}:\n{play.tail()}")
        self.log(f"{play.title}: changed={play.changed}, {play.seconds:.0f} s")
        return play.changed

    def unchanged(self, book):
        """Runs a playbook again, which must change nothing."""
        play = Play(self, book)
        if self.finish(play):
            raise Failed(f"a repeated run of {book}.yml has changed {play.changed} things: {play.changed_tasks()}")

    def refused(self, message, book, *words):
        """Runs a playbook that must fail with a message, which is not split between lines."""
        self.failed(Play(self, book, *words), message)

    def failed(self, play, *messages):
        """Waits for the failure of a playbook with one of these messages."""
        if play.wait():
            raise Failed(f"{play.title} has passed, and not failed with: {' or '.join(messages)}")
        output = " ".join(play.output().replace("\\n", " ").split())
        found = next((message for message in messages if message in output), None)
        if not found:
            raise Failed(f"{play.title} has failed without the message: {' or '.join(messages)}\n{play.tail()}")
        self.log(f"{play.title} is refused, {play.seconds:.0f} s: {found}")

    def identify(self):
        """Gives the host for monitoring a certificate of an operator, of the present CA and always for the same key."""
        directory = self.run.directory / "operator"
        name = "operator/rehearsal"
        if not directory.exists():
            directory.mkdir()
            call(self.program, "ca", "issue", name, "--cluster", "test", "--dir", directory)
        (directory / "operator-rehearsal.crt").unlink(missing_ok=True)
        request = directory / "operator-rehearsal.csr"
        call(self.program, "ca", "sign", name, request, "--cluster", "test", "--ca", self.authority)
        for kind in ("key", "crt"):
            self.hosts["p1"].put(directory / f"operator-rehearsal.{kind}", f"/var/tmp/operator.{kind}")

    def argosy(self, command):
        """Runs a command as an operator on the host for monitoring, which no step destroys."""
        return self.hosts["p1"].root(f"{self.operator} argosy {command}")

    def operate(self, command, what):
        """Repeats a command of an operator until it succeeds."""
        self.hosts["p1"].until(f"{self.operator} argosy {command}", what)

    def healthy(self):
        self.argosy("wait cluster --for healthy --timeout 100s")

    def leader(self):
        """Returns the name of the host whose master leads."""
        found = json.loads(self.argosy("status --output json --timeout 60s"))
        address = next(one["apiAddress"] for one in found["masters"] if one["role"] == "leader")
        return next(host.name for host in self.run.hosts if address == f"{host.address}:5050")

    def choose(self, suffix=""):
        """Chooses the package, or a copy of it with a higher version, for the next playbooks."""
        self.package = self.built
        if suffix:
            directory = self.run.directory / f"package{suffix}"
            if not directory.exists():
                directory.mkdir()
                newer(self.built, directory, suffix)
            self.package = next(directory.glob("argosy_*.deb"))
        return self.package.name.split("_")[1]

    def version(self, name):
        """Returns the version of the package that a host has, or an empty text."""
        return self.hosts[name].root("dpkg-query --show --showformat='${Version}' argosy 2> /dev/null || true")

    def choose_installed(self):
        """Chooses the package that the hosts have."""
        if found := self.version("p1"):
            self.choose(found.removeprefix(self.built.name.split("_")[1]))

    def check_version(self, wanted):
        for name in [*MASTERS, *AGENTS, "p1"]:
            found = self.hosts[name].root("dpkg-query --show --showformat='${db:Status-Status} ${Version}' argosy")
            if found != f"installed {wanted}":
                raise Failed(f"the package of host {name} is: {found}, and not: installed {wanted}")

    def rebuild(self, *names):
        """Replaces hosts by new ones with the same names and addresses."""
        for name in names:
            self.run.host(name).destroy()
        self.run.up(names)
