"""The blocks of commands of a page, and their execution on machines.

A page names what this module does in HTML comments. Before a block:

  on: HOST          machines that run it: each, an address or name, leader, then killed for that
                    machine and others for the rest [default: that of the test]
  until: TEXT       repeat the block for a minute until its output has this text
  status: NUMBER    exit status of its last command [default: 0]
  during: ACTION    call this action of the test again and again while the block runs; when the
                    output has all expected texts, press Ctrl-C

After a block:

  expect: TEXT      the output must have this text
  absent: TEXT      the output must not have this text
  check: NAME WORD  call this check of the test, with these words

Texts are compared with each run of blanks as one. `<!-- do: NAME WORD -->` calls an action of the
test between two blocks.
"""

import dataclasses
import json
import re
import time

from .machines import Failed

TIMEOUT_S = 60
# Between two calls of the action during a block.
PAUSE_S = 1
BEFORE, AFTER = ("on", "until", "status", "during"), ("expect", "absent", "check")


@dataclasses.dataclass
class Block:
    """A block of commands with the remarks before and after it; without commands, an action."""

    line: int
    before: dict
    commands: str = ""
    after: list = dataclasses.field(default_factory=list)

    def texts(self, kind):
        return [text for name, text in self.after if name == kind]

    def title(self):
        lines = self.commands.splitlines()
        return next((line for line in lines if not line.startswith(("me=", "export "))), lines[0])


def blocks(text):
    """Returns the blocks and actions of a page, in order."""
    found, before, lines = [], {}, None
    for number, line in enumerate(text.splitlines(), 1):
        remark = re.fullmatch(r"<!-- (\w+): (.*) -->", line)
        if lines is not None:
            if line == "```":
                found.append(Block(number - len(lines) - 1, before, "\n".join(lines)))
                before, lines = {}, None
            else:
                lines.append(line)
        elif line.startswith("```"):
            if line != "```sh":
                raise Failed(f"line {number}: every fenced block of this page is run, so it begins with ```sh")
            lines = []
        elif remark and remark[1] == "do":
            found.append(Block(number, {"do": remark[2]}))
        elif remark and remark[1] in BEFORE:
            before[remark[1]] = remark[2]
        elif remark and remark[1] in AFTER and found:
            found[-1].after.append((remark[1], remark[2]))
        elif line.startswith("<!--"):
            raise Failed(f"line {number}: unknown remark: {line}")
    if lines is not None or before:
        raise Failed("the page ends within a block, or with a remark for one")
    return found


def squeeze(text):
    return re.sub(r"[ \t]+", " ", text)


class Player:
    """Runs the blocks of a page on machines."""

    def __init__(self, machines, log, host=None, actions=None):
        self.machines, self.log, self.host = machines, log, host
        # Actions and checks by name. Each gets the player, and the words after its name.
        self.actions = actions or {}
        self.output = ""

    def act(self, words):
        name, *rest = words.split()
        if name not in self.actions:
            raise Failed(f"no action or check is named {name}")
        self.actions[name](self, *rest)

    def masters(self):
        return [machine for machine in self.machines if machine.has_master]

    def leader(self):
        """Returns the address of the leader, by the current context of a machine."""
        listed = "argosy master list -o json"
        status, output = self.masters()[0].run(listed)
        found = json.loads(output) if status == 0 else []
        found = found.get("masters", []) if isinstance(found, dict) else found
        for master in found:
            if master["role"] == "leader":
                return master["apiAddress"].split(":")[0]
        raise Failed(f"{listed} names no leader:\n{output}")

    def choose(self, where):
        """Returns the machines of a remark `on`."""
        if where == "leader":
            where = self.leader()
            for machine in self.machines:
                machine.killed = machine.address == where
        chosen = [machine for machine in self.machines if where in ("each", machine.address, machine.host)
                  or (where == "killed" and machine.killed) or (where == "others" and not machine.killed)]
        if not chosen:
            raise Failed(f"no machine {where}")
        return chosen

    def play(self, block):
        """Runs a block and its checks, and raises Failed if a result is not the expected one."""
        try:
            if "do" in block.before:
                self.log(f"({block.before['do']})")
                self.act(block.before["do"])
                return
            where = block.before.get("on", self.host)
            if where is None:
                raise Failed("the block does not name its host")
            self.log(f"on {where}: {block.title()}")
            for machine in self.choose(where):
                run = self.interrupt if "during" in block.before else self.repeat
                self.output = run(machine, block)
                self.compare(machine, block)
            for words in block.texts("check"):
                self.act(words)
        except Failed as why:
            raise Failed(f"line {block.line}: {why}") from why

    def repeat(self, machine, block):
        """Runs a block, if necessary until it has the wanted output, and returns its output."""
        until, wanted = block.before.get("until"), int(block.before.get("status", 0))
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            status, output = machine.run(block.commands)
            met = until is None or squeeze(until) in squeeze(output)
            if met and status == wanted:
                return output
            if until is None or time.monotonic() > deadline:
                instead = "" if status == wanted else f", not {wanted}"
                without = "" if met else f", without {until!r}"
                raise Failed(f"{machine.address}: ended with {status}{instead}{without}:\n{output}")
            time.sleep(0.2)

    def interrupt(self, machine, block):
        """Runs a block until its output has all expected texts, and returns its output."""
        deadline = time.monotonic() + TIMEOUT_S
        with machine.start(block.commands) as running:
            while not all(squeeze(text) in squeeze(running.output()) for text in block.texts("expect")):
                if running.has_ended() or time.monotonic() > deadline:
                    break
                self.act(block.before["during"])
                time.sleep(PAUSE_S)
            running.interrupt()
            return running.output()

    def compare(self, machine, block):
        output = squeeze(self.output)
        for text in block.texts("expect"):
            if squeeze(text) not in output:
                raise Failed(f"{machine.address}: {text!r} is not in the output:\n{self.output}")
        for text in block.texts("absent"):
            if squeeze(text) in output:
                raise Failed(f"{machine.address}: {text!r} is in the output:\n{self.output}")
