"""Probes services over HTTP, each ten times a second, and counts the results. Independent of clusters."""

import http.client
import json
import threading
import time

EVERY_S = 0.1
# A slower service counts as unanswered.
TIMEOUT_S = 2.0


class Probe(threading.Thread):
    """One service, from `start()` to `finish()`."""

    def __init__(self, name, address, port):
        super().__init__(daemon=True)
        self.name, self.address, self.port = name, address, port
        self.answered = 0
        self.failures = []
        self.identities = {}
        self.slowest_ms = 0.0
        self.longest_gap_ms = 0.0
        self.begun = time.time()
        self.ended = None
        self.stop = threading.Event()

    def run(self):
        last_answer = due = time.monotonic()
        while not self.stop.wait(max(0.0, due - time.monotonic())):
            sent = time.monotonic()
            try:
                identity = self.ask()
            except (OSError, ValueError, http.client.HTTPException) as error:
                # The service runs before it listens, so probes before its first answer do not count.
                if self.answered:
                    self.failures.append({"at": time.time(), "why": str(error) or type(error).__name__})
            else:
                now = time.monotonic()
                self.answered += 1
                self.identities[identity] = self.identities.get(identity, 0) + 1
                self.slowest_ms = max(self.slowest_ms, (now - sent) * 1000)
                self.longest_gap_ms = max(self.longest_gap_ms, (now - last_answer) * 1000)
                last_answer = now
            # Missed probes are not repeated.
            due = max(due + EVERY_S, time.monotonic())
        self.longest_gap_ms = max(self.longest_gap_ms, (time.monotonic() - last_answer) * 1000)
        self.ended = time.time()

    def ask(self):
        """Returns the process that answers: task, id, start time, nonce."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        me = json.loads(body)
        return f"{me['task']} {me['nonce']} {me['start_time']}"

    def finish(self):
        self.stop.set()
        self.join()

    def record(self):
        return {
            "task": self.name, "address": f"{self.address}:{self.port}", "begun": self.begun,
            "ended": self.ended, "answered": self.answered, "failures": self.failures,
            "identities": self.identities, "slowest_ms": round(self.slowest_ms, 1),
            "longest_gap_ms": round(self.longest_gap_ms, 1),
        }
