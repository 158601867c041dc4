"""The one machine that is every host of a case, its programs, and the runs of playbooks on it."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import yaml

GROUPS = {"masters": ["m1", "m2", "m3"], "agents": ["a1", "a2"], "monitoring": ["p1"]}
# Playbooks write to these directories.
HOME = str(pathlib.Path.home())
CHANGED = ["/etc", "/run", "/var", HOME]
# Ends like the first answer whose pattern its command line matches.
PROGRAM = f"#!{sys.executable}" + """
import json, os, re, sys
directory = os.path.dirname(os.path.dirname(sys.argv[0]))
line = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
with open(f"{directory}/calls", "a") as calls:
    calls.write(line + "\\n")
for pattern, status, stdout, stderr in json.load(open(f"{directory}/answers")):
    if re.search(pattern, line):
        sys.stdout.write(stdout)
        sys.stderr.write(stderr)
        sys.exit(status)
"""
PROGRAMS = ["argosy", "systemctl", "timeout"]


class Failed(Exception):
    pass


@contextlib.contextmanager
def hidden_changes(layers):
    """Puts a layer over each directory that playbooks change, in the mount namespace of this process."""
    layers.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", layers], check=True)
    for path in CHANGED:
        upper, work = (layers / f"{kind}{path}" for kind in ("upper", "work"))
        upper.mkdir(parents=True)
        work.mkdir(parents=True)
        options = f"lowerdir={path},upperdir={upper},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", *CHANGED, layers], check=True)


class Machine:
    """A copy of the collection, and the programs and files of one case."""

    def __init__(self, root, directory):
        self.root, self.directory = root, directory
        self.ca = directory / "ca"
        self.ca.mkdir(parents=True)
        shutil.copytree(root / "deploy/ansible", directory / "ansible")
        shutil.copytree(root / "deploy/prometheus", directory / "prometheus")
        (directory / "bin").mkdir()
        for name in PROGRAMS:
            self.program(name)
        self.answers = []
        self.variables = {
            "ansible_become": False, "common_cluster_name": "test",
            "ansible_python_interpreter": sys.executable, "common_ca_directory": str(self.ca),
        }
        self.unreachable()
        for path in ("/etc/argosy", "/var/lib/argosy", "/var/backups/argosy", "/etc/prometheus/argosy", f"{HOME}/test-playbooks"):
            shutil.rmtree(path, ignore_errors=True)

    def unreachable(self, *lost):
        """Writes an inventory in which these hosts are not reached, and all others are this machine."""
        groups = {}
        for at, (group, names) in enumerate(GROUPS.items()):
            hosts = groups.setdefault(group, {"hosts": {}})["hosts"]
            for name in names:
                connection = {"ansible_connection": "ssh", "ansible_port": 1} if name in lost else {"ansible_connection": "local"}
                hosts[name] = {"ansible_host": f"127.0.2.{10 * at + int(name[1:])}", **connection}
        (self.directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))

    def program(self, name):
        path = self.directory / "bin" / name
        path.write_text(PROGRAM)
        path.chmod(0o755)

    def answer(self, pattern, status=0, stdout="", stderr=""):
        """The programs answer so from now on; the newest answer that matches counts."""
        self.answers.insert(0, (pattern, status, stdout, stderr))

    def unit(self, name, state, started):
        """A unit is in a state, and its process has started at this time, in seconds since 1970."""
        self.answer(rf"systemctl .*show .*{name}",
                    stdout=f"Id={name}\nLoadState=loaded\nActiveState={state}\nUnitFileState=enabled\n"
                           f"ActiveEnterTimestamp=@{started if state == 'active' else ''}\n"
                           f"ExecMainStartTimestamp=@{started}\n")

    def calls(self, pattern):
        """Returns the command lines of programs that match."""
        path = self.directory / "calls"
        return [line for line in (path.read_text() if path.exists() else "").splitlines() if re.search(pattern, line)]

    def empty(self, *paths):
        """Replaces files of tasks in the copy of the collection by files without tasks."""
        for path in paths:
            (self.directory / "ansible/roles" / path).write_text("[]\n")

    def tasks_of_role(self, path, without):
        """Removes the tasks with these names from a file in the copy of the collection."""
        path = self.directory / "ansible/roles" / path
        kept = [task for task in yaml.safe_load(path.read_text()) if task["name"] not in without]
        path.write_text(yaml.safe_dump(kept, sort_keys=False))

    def plays(self, book):
        return yaml.safe_load((self.directory / f"ansible/playbooks/{book}.yml").read_text())

    def run(self, plays, *words, **variables):
        """Runs plays, or a playbook by its name. Returns whether they have passed, and their output."""
        book = self.directory / "ansible/playbooks" / (f"{plays}.yml" if isinstance(plays, str) else "case.yml")
        if not isinstance(plays, str):
            book.write_text(yaml.safe_dump(plays, sort_keys=False))
        (self.directory / "answers").write_text(json.dumps(self.answers))
        (self.directory / "calls").unlink(missing_ok=True)
        collection = self.directory / "ansible"
        cache = pathlib.Path(os.environ["ARGOSY_CACHE"])
        environment = {
            **os.environ, "PATH": f"{self.directory}/bin:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(collection / "ansible.cfg"), "ANSIBLE_HOME": str(self.directory / "state"),
            "ANSIBLE_ROLES_PATH": str(collection / "roles"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_REMOTE_TEMP": str(self.directory / "tmp"),
        }
        command = [cache / "ansible/lint/bin/ansible-playbook", "--inventory", self.directory / "hosts.yml", book,
                   "--extra-vars", json.dumps({**self.variables, **variables}), *words]
        done = subprocess.run(command, env=environment, cwd=collection, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False)
        (self.directory / "log").write_text(done.stdout + done.stderr)
        return done.returncode == 0, done.stdout + done.stderr

    def output(self, plays, *words, **variables):
        return self.run(plays, *words, **variables)[1]

    def passes(self, plays, *words, **variables):
        passed, output = self.run(plays, *words, **variables)
        require(passed, f"it has failed:\n{output}")
        return output

    def fails(self, message, plays, *words, **variables):
        """Runs plays that must fail with this message."""
        passed, output = self.run(plays, *words, **variables)
        require(not passed, f"it has passed, and not failed with: {message}\n{output}")
        require(message in " ".join(output.replace("\\n", " ").split()), f"it has failed without: {message}\n{output}")
        return output


def role(hosts, name, tasks="main"):
    """Returns plays that run the tasks of a role on hosts."""
    imported = {"name": "Run", "ansible.builtin.import_role": {"name": name, "tasks_from": tasks}}
    return [{"name": "Run", "hosts": hosts, "gather_facts": False, "tasks": [imported]}]


def require(holds, what):
    if not holds:
        raise Failed(what)
