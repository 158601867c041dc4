"""The test of the Ansible collection: a cluster of seven hosts, from its deployment to its removal."""

import os
import pathlib
import re
import subprocess
import tempfile

from hosts_lib.machine import Failed
from hosts_lib.package import TASK, Installed, newer

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HOSTS = [*(f"masters:m{number}" for number in (1, 2, 3)), *(f"agents:a{number}" for number in (1, 2, 3)), "monitoring:p1"]
# A playbook for all hosts, on a busy machine.
PLAY_S = 900
SCRAPED = """python3 - <<'END'
import json, sys, urllib.request
answer = urllib.request.urlopen("http://127.0.0.1:9090/api/v1/query?query=up%7Bjob%3D~%22argosy.*%22%7D", timeout=5)
up = [one["metric"].get("instance") for one in json.load(answer)["data"]["result"] if one["value"][1] == "1"]
sys.exit(0 if len(up) >= 6 else f"only {up} answer")
END"""


class Cluster:
    """Seven hosts and the controller, which is this machine in their network."""

    def __init__(self, run, package, log):
        self.run, self.package, self.log = run, package, log
        self.hosts = {host.name: Installed(host, log) for host in run.hosts}
        self.agents = [installed for name, installed in self.hosts.items() if name.startswith("a")]
        masters = ",".join(host.address for host in run.hosts if "masters" in host.groups)
        tls = "/etc/argosy/tls"
        self.operator = (f"ARGOSY_MASTERS={masters} ARGOSY_TLS_CA={tls}/ca.crt "
                         f"ARGOSY_TLS_CERT={tls}/operator.crt ARGOSY_TLS_KEY={tls}/operator.key")

    def play(self, book, *words):
        """Runs a playbook. Returns the number of tasks that have changed something."""
        collection = ROOT / "deploy/ansible"
        directory = self.run.directory
        cache = pathlib.Path(os.environ["ARGOSY_CACHE"])
        environment = {
            **os.environ, "ANSIBLE_CONFIG": str(collection / "ansible.cfg"), "ANSIBLE_HOME": str(directory / "ansible"),
            "ANSIBLE_NOCOLOR": "1", "ARGOSY_DEB": str(self.package), "ARGOSY_TEST_CA": str(directory / "ca"),
            "ARGOSY_BIN": os.environ.get("ARGOSY_BIN", f"{os.environ['CARGO_TARGET_DIR']}/release/argosy"),
        }
        command = [ROOT / "scripts/test-hosts", "--name", self.run.name, "exec", cache / "ansible/lint/bin/ansible-playbook",
                   "--inventory", directory / "inventory.ini", "--inventory", collection / "inventories/test",
                   collection / f"playbooks/{book}.yml", *words]
        done = subprocess.run(command, env=environment, cwd=collection, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=PLAY_S)
        (directory / f"{book}.log").write_text(done.stdout)
        recap = re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", done.stdout, re.M)
        if done.returncode or not recap or any(line[2:] != ("0", "0") for line in recap):
            raise Failed(f"{book}.yml ended with {done.returncode}:\n" + "\n".join(done.stdout.splitlines()[-40:]))
        changed = sum(int(line[1]) for line in recap)
        self.log(f"{book}.yml {' '.join(words)}: changed={changed}")
        return changed

    def unchanged(self, book):
        if changed := self.play(book):
            log = (self.run.directory / f"{book}.log").read_text()
            tasks = re.findall(r"^TASK \[(.*?)\][^\n]*\n(?:(?!TASK ).*\n)*?changed:", log, re.M)
            raise Failed(f"a repeated run of {book}.yml has changed {changed} things: {tasks}")

    def argosy(self, command):
        return self.hosts["m1"].root(f"{self.operator} argosy {command}")

    def task(self):
        """Returns the agent with the task, and the task's process id there."""
        found = [(agent.host.name, pid) for agent in self.agents
                 for pid in agent.root(f"pgrep -fx '{TASK}' || true").split()]
        if len(found) != 1:
            raise Failed(f"the task runs {len(found)} times: {found}")
        return found[0]

    def same(self, before, after):
        if self.task() != before:
            raise Failed(f"after {after}, the task has another process: {before} before, {self.task()} after")
        self.hosts["m1"].until(f"{self.operator} argosy exec steady -- true", "the agent continues the task")


def test_cluster(run, package, log):
    """Deploys, repeats, restarts, upgrades and removes a cluster under a running task."""
    cluster = Cluster(run, package, log)
    before = {name: installed.files() for name, installed in cluster.hosts.items()}
    cluster.play("site")
    cluster.unchanged("site")
    cluster.play("verify")
    cluster.argosy(f"run --detach --name steady -- {TASK}")
    cluster.argosy("wait task steady --for running --timeout 60s")
    task = cluster.task()
    # One of these two leads.
    for master in run.hosts[:2]:
        cluster.argosy(f"master transfer --away-from {master.address}:5050")
    cluster.unchanged("site")
    cluster.play("rolling_restart")
    cluster.same(task, "a restart of all processes")
    cluster.hosts["p1"].until(SCRAPED, "Prometheus scrapes all masters and agents")
    with tempfile.TemporaryDirectory() as directory:
        cluster.package, version = newer(package, pathlib.Path(directory))
        cluster.play("upgrade")
        for name, installed in cluster.hosts.items():
            found = installed.root("dpkg-query --show --showformat='${Version}' argosy")
            if found != version:
                raise Failed(f"host {name} has version {found} after an upgrade to {version}")
        cluster.same(task, "an upgrade")
        cluster.unchanged("site")
        cluster.play("verify")
    cluster.play("uninstall", "--extra-vars", "uninstall_cluster=test")
    for name, installed in cluster.hosts.items():
        left = {path for path in installed.files() - before[name] if "argosy" in path}
        if left:
            raise Failed(f"uninstall.yml has left on {name}: {' '.join(sorted(left)[:20])}")
    log("uninstall.yml has left nothing of Argosy")
