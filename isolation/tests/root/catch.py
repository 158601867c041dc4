"""Tries to get hold of processes that enter this container before they are commands: those that still run the program
named by the argument, or have more open than three streams. Ends when the file `stop` is there; then `found` contains how
often a process that exists kept all of it shut and how often one was open, and, a line each, what was caught.
"""
import os
import sys

OURS = sys.argv[1]


def link(pid, name):
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return None


def memory(pid):
    """What a process that lets its memory be opened runs. The right to that is the right to trace it."""
    try:
        with open(f"/proc/{pid}/mem", "rb"), open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
            return maps.read()
    except OSError:
        return None


def descriptors(pid):
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return None
    return [link(pid, f"fd/{name}") for name in names]


def caught(pid):
    """What of a process that is no command yet could be had; `None` if nothing at all of it could."""
    executable, runs, files = link(pid, "exe"), memory(pid), descriptors(pid)
    if executable is None and runs is None and files is None:
        return None
    found = []
    if executable and OURS in executable:
        found.append("executable")
    if runs and OURS in runs:
        found.append("memory")
    if files and any(file and file.startswith("socket:") for file in files):
        found.append(f"descriptors {files}")
    return found


def exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def newest():
    """The number that was given last: processes that are kept from us are not listed."""
    with open("/proc/loadavg", encoding="ascii") as text:
        return int(text.read().split()[-1])


def main():
    kept, opened, all_caught = 0, 0, set()
    with open("ready", "w", encoding="ascii"):
        pass
    while not os.path.exists("stop"):
        last = newest()
        for pid in range(max(last - 3, os.getpid() + 1), last + 2):
            if not exists(pid):
                continue
            found = caught(pid)
            if found is None:
                kept += 1
            else:
                opened += 1
                all_caught.update(found)
    with open("found", "w", encoding="utf-8") as file:
        file.write(f"{kept} {opened}\n" + "\n".join(sorted(all_caught)))


main()
