"""The blocks of commands of a page, and their execution on machines.

In a page, a comment before a block names the machines that run it (`on: each`, an address, `leader`,
then `killed` for that machine and `others` for the rest) and the output to wait for (`until: TEXT`,
retried for a minute). Comments after it name the expected output (`expect: TEXT`).
"""

import json
import re
import time

from .machines import Failed

TIMEOUT = 60


def blocks(text):
    """Returns each block of commands with the remarks before and after it."""
    found, before, current, after = [], {}, None, None
    for line in text.splitlines():
        remark = re.fullmatch(r"<!-- (on|until|expect): (.*) -->", line)
        if current is not None:
            if line == "```":
                after = []
                found.append((before, "\n".join(current), after))
                before, current = {}, None
            else:
                current.append(line)
        elif remark and remark[1] in ("on", "until"):
            before[remark[1]] = remark[2]
        elif remark:
            after.append(remark[2])
        elif line == "```sh":
            if "on" not in before:
                raise Failed("a block of commands does not name its host")
            current = []
    return found


def choose(machines, where):
    if where == "leader":
        where = leader(machines)
        for machine in machines:
            machine.killed = machine.address == where
    chosen = [machine for machine in machines if where in ("each", machine.address)
              or (where == "killed" and machine.killed) or (where == "others" and not machine.killed)]
    if not chosen:
        raise Failed(f"no machine {where}")
    return chosen


def leader(machines):
    listed = f"argosy master list -o json --masters {','.join(machine.address for machine in machines)}"
    status, output = machines[0].run(listed)
    masters = json.loads(output) if status == 0 else []
    masters = masters.get("masters", []) if isinstance(masters, dict) else masters
    for master in masters:
        if master["role"] == "leader":
            return master["apiAddress"].split(":")[0]
    raise Failed(f"{listed} names no leader:\n{output}")


def play(machines, log, before, block, after):
    """Runs a block where its remarks name, and raises Failed if its result is not the expected one."""
    first = next(line for line in block.splitlines() if not line.startswith(("me=", "export ")))
    log(f"on {before['on']}: {first}")
    chosen = choose(machines, before["on"])
    outputs = []
    for machine in chosen:
        deadline = time.monotonic() + TIMEOUT
        while True:
            status, output = machine.run(block)
            met = "until" not in before or before["until"] in output
            if met and status == 0:
                break
            if "until" not in before or time.monotonic() > deadline:
                wanted = f", without {before['until']!r}" if not met else ""
                raise Failed(f"{machine.address}: ended with {status}{wanted}:\n{output}")
            time.sleep(0.2)
        outputs.append(output)
    for text in after:
        for machine, output in zip(chosen, outputs):
            if text not in output:
                raise Failed(f"{machine.address}: {text!r} is not in the output:\n{output}")
