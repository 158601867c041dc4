"""What playbooks and roles must do and must refuse. Each function is one case."""

import os
import pathlib
import time

from playbooks_lib.machine import require, role


def file(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def masters_without_a_recent_backup_are_reported(machine):
    plays = [play for play in machine.plays("verify") if play["name"] == "Verify the backups"]
    old = time.time() - 27 * 3600
    timer = file(pathlib.Path("/etc/systemd/system/argosy-backup.timer"))
    # It may not have elapsed yet.
    machine.passes(plays)
    os.utime(timer, (old, old))
    machine.fails("No master has saved a backup within 26h", plays)
    machine.passes(plays, backup_calendar="")
    snapshot = file(pathlib.Path("/var/backups/argosy/1.snapshot"))
    machine.passes(plays)
    os.utime(snapshot, (old, old))
    machine.fails("No master has saved a backup within 26h", plays)


def a_restarted_agent_must_be_connected(machine):
    machine.passes(role("a1", "agent", "registered"))
    require(machine.calls("argosy wait agent a1 --for=connected"), "the gate is another one")


def a_check_run_does_not_need_a_ca(machine):
    machine.passes(role("m1", "tls", "trust"), "--check")


CASES = [
    masters_without_a_recent_backup_are_reported,
    a_restarted_agent_must_be_connected,
    a_check_run_does_not_need_a_ca,
]
