"""The load of a rehearsal, which runs on one host of the cluster: python3 load_program.py NAME REPORT

One thread changes the registry without a pause, and notes the time of each success. Others run short
tasks. Each start of a task appends its name to the file /var/witness/batch of its host. After
SIGTERM, the program waits for its last tasks, and writes what it has seen to the file REPORT.
"""

import json
import signal
import subprocess
import sys
import threading
import time

BATCH_THREADS = 2
# Longer than any failover or cut of a rehearsal, so that a command fails only if a call is lost.
TIMEOUT = "300s"
STOP = threading.Event()


def argosy(*words):
    return subprocess.run(["argosy", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")


def write(report):
    """Changes the weight of a role that nothing uses."""
    number = 0
    while not STOP.is_set():
        number = number % 1000 + 1
        begun = time.time()
        done = argosy("weight", "set", "rehearsal", str(number), "--timeout", TIMEOUT)
        if done.returncode:
            report["failed"].append(f"{begun:.1f} weight set: exit code {done.returncode}: {done.stderr.strip()}")
        else:
            report["writes"].append(round(time.time(), 3))
        # Each command is a process, which uses processor time that the hosts of a test share.
        STOP.wait(0.1)


def batch(name, thread, report):
    number = 0
    while not STOP.is_set():
        number += 1
        task = f"{name}-{thread}-{number}"
        report["tasks"].append(task)
        # Tasks have different users, so the file belongs to none of them.
        done = argosy("run", "--quiet", "--name", task, "--volume", "/var/witness:/witness", "--",
                      "sh", "-c", f"echo {task} >> /witness/batch; sleep 1")
        if done.returncode:
            report["failed"].append(f"{time.time():.1f} {task}: exit code {done.returncode}: {done.stderr.strip()[-500:]}")
        STOP.wait(0.5)


def main(name, target):
    report = {"writes": [], "tasks": [], "failed": []}
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    threads = [threading.Thread(target=write, args=(report,))]
    threads += [threading.Thread(target=batch, args=(name, thread, report)) for thread in range(BATCH_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        # The system may deliver the signal to a thread that starts a command. Only this one runs
        # the handler, and not while it waits without a limit.
        while thread.is_alive():
            thread.join(0.2)
    with open(target, "w", encoding="utf-8") as out:
        json.dump(report, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
