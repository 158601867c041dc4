"""Playbooks of deploy/ansible, run on a set of test hosts by the controller, which is this machine."""

import os
import pathlib
import re
import signal
import subprocess
import time

from hosts_lib.machine import Failed

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# A playbook for all hosts, on a busy machine.
PLAY_S = 900


class Play:
    """A playbook that was started. Its output is in a file of the run."""

    def __init__(self, cluster, book, *words):
        self.title = " ".join([f"{book}.yml", *words])
        collection = ROOT / "deploy/ansible"
        run = cluster.run
        cache = pathlib.Path(os.environ["ARGOSY_CACHE"])
        environment = {
            **os.environ, "ANSIBLE_CONFIG": str(collection / "ansible.cfg"), "ANSIBLE_HOME": str(run.directory / "ansible"),
            # The masters share the processors of this machine with the modules of all hosts.
            "ANSIBLE_FORKS": "4", "ANSIBLE_NOCOLOR": "1",
            "ARGOSY_DEB": str(cluster.package), "ARGOSY_TEST_CA": str(cluster.authority), "ARGOSY_BIN": str(cluster.program),
            "ARGOSY_CHAOS_DEB": str(cluster.harness),
        }
        command = [ROOT / "scripts/test-hosts", "--name", run.name, "exec", cache / "ansible/lint/bin/ansible-playbook",
                   "--inventory", run.directory / "inventory.ini", "--inventory", collection / "inventories/test",
                   collection / f"playbooks/{book}.yml", *words]
        logs = run.directory / "plays"
        logs.mkdir(exist_ok=True)
        self.log = logs / f"{len(list(logs.iterdir())) + 1:02}-{book}.log"
        self.begun = time.monotonic()
        with self.log.open("w") as out:
            self.process = subprocess.Popen(command, env=environment, cwd=collection, stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=subprocess.STDOUT, start_new_session=True)

    def output(self):
        return self.log.read_text(errors="replace")

    def until(self, pattern):
        """Waits until the output has a text that matches the pattern."""
        while not re.search(pattern, self.output()):
            if self.process.poll() is not None or time.monotonic() > self.begun + PLAY_S:
                self.interrupt()
                raise Failed(f"{self.title} has not printed {pattern}:\n{self.tail()}")
            time.sleep(0.05)

    def reaches(self, number):
        """Waits until the playbook begins its task of this number, from 1. Returns whether it has so many."""
        while self.output().count("\nTASK [") < number:
            if self.process.poll() is not None or time.monotonic() > self.begun + PLAY_S:
                return False
            time.sleep(0.05)
        return True

    def interrupt(self):
        """Ends the playbook as Ctrl-C does. If Ansible has not ended after a minute, kills it.

        Ansible may wait for a lock of its log that the interrupted code holds.
        """
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.wait()

    def wait(self):
        """Waits for the end, and returns whether all hosts have done all tasks."""
        try:
            self.process.wait(PLAY_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise Failed(f"{self.title} has not ended within {PLAY_S} s:\n{self.tail()}") from None
        self.seconds = time.monotonic() - self.begun
        recap = re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", self.output(), re.M)
        self.changed = sum(int(line[1]) for line in recap)
        return bool(self.process.returncode == 0 and recap and all(line[2:] == ("0", "0") for line in recap))

    def tail(self):
        return "\n".join(self.output().splitlines()[-40:])

    def changed_tasks(self):
        return re.findall(r"^TASK \[(.*?)\][^\n]*\n(?:(?!TASK ).*\n)*?changed:", self.output(), re.M)
