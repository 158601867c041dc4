"""What playbooks and roles must do and must refuse. Each function is one case."""

from playbooks_lib.machine import role


def a_check_run_does_not_need_a_ca(machine):
    machine.passes(role("m1", "tls", "trust"), "--check")


CASES = [
    a_check_run_does_not_need_a_ca,
]
