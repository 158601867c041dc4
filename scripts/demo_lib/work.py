"""The two frameworks of the demo as processes, followed by the JSON lines that they print."""

import json
import signal
import subprocess

INPUT = ["/usr/share/doc", "/usr/share/common-licenses"]
MAPS, REDUCES = 192, 16
COPIES = 3
# Nine tasks fit on an agent next to a copy. Each runs for a minimum time, so that a third of all
# takes several seconds on an idle machine, and that some run whenever an agent is killed.
TASK_RESOURCES, TASK_MS = "cpus:0.2;mem:32", 2000
STOP_S = 15
# The programs that the tasks of the frameworks fetch.
TASK_PROGRAMS = ("argosy-wordmap", "argosy-hello-http")


class Framework:
    """One framework's process; `lines` holds its output so far."""

    def __init__(self, name, command, directory, environment):
        self.name = name
        self.path = directory / f"{name}.jsonl"
        self.errors = directory / f"{name}.log"
        self.lines = []
        self.read_to = 0
        with open(self.path, "wb") as output, open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
                env=environment, start_new_session=True)

    def follow(self):
        """Reads and returns the new lines."""
        with open(self.path, "rb") as file:
            file.seek(self.read_to)
            text = file.read()
        whole = text[:text.rfind(b"\n") + 1]
        self.read_to += len(whole)
        new = [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]
        self.lines += new
        return new

    def last(self, event):
        """Returns the newest line of this kind."""
        return next((line for line in reversed(self.lines) if line["event"] == event), None)

    def failure(self):
        """Returns a message if it has ended with an error."""
        status = self.process.poll()
        if not status:
            return None
        errors = self.errors.read_text(errors="replace").strip().splitlines()
        return f"{self.name} ended with status {status}: {errors[-1] if errors else 'no output'}"

    def ask_to_stop(self):
        """Sends TERM; the framework removes itself from the cluster."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def stop(self):
        """Waits until it has ended. Returns a message if it does not."""
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"{self.name} did not stop within {STOP_S} s and was killed"
        return None


class WordCount(Framework):
    def __init__(self, bin_dir, programs, masters, directory, witness, environment):
        command = [
            bin_dir / "argosy-wordcount", "--masters", masters, "--input", *INPUT,
            "--output", directory / "counts.tsv", "--mapper", programs / "argosy-wordmap", "--maps", MAPS, "--reduces", REDUCES,
            "--witness", witness, "--resources", TASK_RESOURCES, "--task-ms", TASK_MS,
            "--hold-offer", "--progress", "json",
        ]
        super().__init__("wordcount", command, directory, environment)
        self.total = MAPS + REDUCES

    def progress(self):
        nothing = {"maps_done": 0, "reduces_done": 0, "running": 0}
        return self.last("progress") or nothing

    @property
    def done(self):
        progress = self.progress()
        return progress["maps_done"] + progress["reduces_done"]


class Steady(Framework):
    def __init__(self, bin_dir, programs, masters, directory, witness, environment):
        command = [
            bin_dir / "argosy-steady", "--masters", masters, "--copies", COPIES,
            "--uri", programs / "argosy-hello-http", "--witness", witness, "--progress", "json",
            "--", "./argosy-hello-http", "--witness", "witness",
        ]
        super().__init__("steady", command, directory, environment)

    def running(self):
        """Returns the running copies: task id to (address, port)."""
        newest = {line["task"]: line for line in self.lines if line["event"] == "copy"}
        return {
            task: (line["address"], line["port"]) for task, line in newest.items()
            if line["state"] == "TASK_STATE_RUNNING"
        }
