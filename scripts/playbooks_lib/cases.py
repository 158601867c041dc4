"""What playbooks and roles must do and must refuse. Each function is one case."""

import contextlib
import os
import pathlib
import subprocess
import time
import unittest.mock

import yaml

from playbooks_lib.machine import GROUPS, HOME, require, role

# Plays that wait for the masters before the next play begins.
GATED = ["upgrade", "site", "rolling_restart", "chaos", "renew_certificates"]
TLS = pathlib.Path("/etc/argosy/tls")
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
KEYS = f"k1:{'5a' * 32}\n"
BACKUP_KEY = pathlib.Path("/etc/argosy/backup.key")
DATA = pathlib.Path("/var/lib/argosy")
UNITS = pathlib.Path("/etc/systemd/system")


def file(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def masters_without_a_recent_backup_are_reported(machine):
    plays = [play for play in machine.plays("verify") if play["name"] == "Verify the backups"]
    old = time.time() - 27 * 3600
    timer = file(UNITS / "argosy-backup.timer")
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


def a_missing_or_empty_file_of_a_ca_leaves_the_trusted_ones(machine):
    file(machine.ca / "ca.key")
    file(machine.ca / "ca.crt", CERTIFICATE)
    trusted = file(TLS / "ca.crt", "those of before\n")
    trust = role("m1", "tls", "trust")
    machine.fails("/missing/ca.crt", trust, tls_trusted_ca_files=["/missing/ca.crt"])
    machine.fails("/missing/ca.crt", trust, "--check", tls_trusted_ca_files=["/missing/ca.crt"])
    empty = file(machine.ca / "empty.crt")
    machine.fails("has no CA certificate", trust, tls_trusted_ca_files=[str(empty)])
    require(trusted.read_text() == "those of before\n", f"ca.crt is {trusted.read_text()!r}")
    former = file(pathlib.Path(HOME) / "test-playbooks/former.crt", CERTIFICATE)
    machine.passes(trust, tls_trusted_ca_files=["~/test-playbooks/former.crt"])
    require(trusted.read_text().count("BEGIN CERTIFICATE") == 2, f"{former} is not trusted")


def a_ca_directory_may_begin_with_a_tilde(machine):
    home, directory = pathlib.Path(HOME) / "test-playbooks", "~/test-playbooks/new"
    machine.run(role("m1", "tls", "trust"), common_ca_directory=directory)
    calls = machine.calls("argosy ca init")
    require(calls and f"{home}/new" in calls[0] and "~" not in calls[0], f"the CA was created by {calls}")
    file(home / "new/ca.key")
    file(home / "new/ca.crt", CERTIFICATE)
    for name in ("master-m1", "operator-m1"):
        file(TLS / f"{name}.key")
        file(TLS / f"{name}.csr", "a request\n")
        file(home / f"new/issued/m1/{name}.csr", "a request\n")
        file(home / f"new/issued/m1/{name}.crt", CERTIFICATE)
    machine.passes(role("m1", "tls"), common_ca_directory=directory)
    calls = machine.calls("argosy ca (sign|renew)")
    require(calls and not any("~" in call for call in calls), f"certificates were renewed by {calls}")


def a_check_run_does_not_need_a_ca(machine):
    machine.passes(role("m1", "tls", "trust"), "--check")


def a_lost_request_does_not_prevent_the_renewal(machine):
    file(machine.ca / "ca.key")
    file(machine.ca / "ca.crt", CERTIFICATE)
    file(TLS / "master-m1.key")
    identities = [{"kind": "master", "name": "m1"}]
    machine.fails("has no request", role("m1", "tls"), tls_identities=identities)
    file(machine.ca / "issued/m1/master-m1.crt", CERTIFICATE)
    machine.answer("argosy ca renew", stderr="wrote master-m1.crt\n")
    machine.passes(role("m1", "tls"), tls_identities=identities)
    require(machine.calls("argosy ca renew .*master-m1.crt"), "the certificate is not renewed")
    require((TLS / "master-m1.crt").exists(), "the certificate is not installed")


def an_interruption_leaves_no_certificate_of_a_former_key(machine):
    file(TLS / "master-m1.key")
    file(TLS / "master-m1.csr", "the request of the new key\n")
    path = machine.directory / "ansible/roles/tls/tasks/certificate.yml"
    tasks = path.read_text()
    certificate, identity = role("m1", "tls", "certificate"), {"kind": "master", "name": "m1"}
    for last in "Remove the certificate of a former key", "Copy the request to the controller":
        file(machine.ca / "issued/m1/master-m1.csr", "the request of the former key\n")
        file(machine.ca / "issued/m1/master-m1.crt", CERTIFICATE)
        interrupted = yaml.safe_load(tasks)
        at = [task["name"] for task in interrupted].index(last)
        interrupted.insert(at + 1, {"name": "Interrupt the run", "ansible.builtin.fail": {"msg": "interrupted"}})
        path.write_text(yaml.safe_dump(interrupted))
        machine.fails("interrupted", certificate, tls_identity=identity)
        path.write_text(tasks)
        # The program of this case writes no certificate, which the run needs after that.
        machine.run(certificate, tls_identity=identity)
        require(machine.calls("argosy ca sign master/m1"), f"the new key is not signed after an interruption: {last}")


def a_lost_host_does_not_prevent_the_renewal_of_others(machine):
    file(machine.ca / "ca.key")
    file(machine.ca / "ca.crt", CERTIFICATE)
    file(TLS / "master-m1.key")
    file(TLS / "master-m1.csr", "a request\n")
    issued = {host: machine.ca / f"issued/{host}" for hosts in GROUPS.values() for host in hosts}
    for directory in issued.values():
        file(directory / "master-m1.csr", "a request\n")
        file(directory / "master-m1.crt", CERTIFICATE)
    trusted = file(TLS / "ca.crt", CERTIFICATE)
    plays = [play for play in machine.plays("renew_certificates") if "hosts" in play]
    identities = [{"kind": "master", "name": "m1"}]
    for lost in "a2", "m1":
        machine.unreachable(lost)
        passed, output = machine.run(plays, tls_identities=identities, common_gate_host="m2")
        renewed = [host for host in issued if machine.calls(f"argosy ca renew .*/issued/{host}/")]
        require(renewed == [host for host in issued if host != lost], f"these hosts have new certificates: {renewed}\n{output}")
        require(machine.calls("argosy wait cluster"), f"no gate follows:\n{output}")
        require(f"Not reached: {lost}." in output and not passed, f"{lost} is not reported:\n{output}")
    # These would refuse the certificates of a CA that they do not trust.
    refusal = "Not reached: m1. Such a host may not trust the CA certificates"
    trusted.write_text("those of before\n")
    machine.fails(refusal, plays, tls_identities=identities)
    require(trusted.read_text() == "those of before\n", "hosts trust another CA while one is not reached")
    trusted.write_text(CERTIFICATE)
    (issued["m1"] / "master-m1.crt").unlink()
    machine.fails(refusal, plays, tls_identities=identities)
    require(not machine.calls("argosy ca renew"), "certificates are renewed although one host may not trust them")


def a_failed_gate_ends_the_playbook(machine):
    gates = {}
    for book in GATED:
        plays = [play for play in machine.plays(book) if play.get("hosts") == "masters" and "'gate'" in str(play)]
        require(len(plays) == 1, f"{book}.yml has {len(plays)} plays with one gate")
        gates[book] = {**plays[0], "name": "Gate"}
    require(all(gate == gates["site"] for gate in gates.values()), f"the gates of these playbooks differ: {gates}")
    # For hosts that are not reached, ansible-core 2.19 ends a playbook only if a play has both.
    for path in (machine.directory / "ansible/playbooks").glob("*.yml"):
        for play in machine.plays(path.stem):
            both = play.get("any_errors_fatal", False) is (play.get("max_fail_percentage") == 0 and "serial" not in play)
            require(both, f"{path.name}, {play.get('name')!r}: any_errors_fatal without max_fail_percentage, or the reverse")
    then = [{"name": "Continue", "hosts": "masters:agents", "gather_facts": False,
             "tasks": [{"name": "Continue", "ansible.builtin.debug": {"msg": "after the gate"}}]}]
    # A host that is not reached by ssh stops the playbook only if the gate needs it.
    machine.unreachable("m3")
    output = machine.output([gates["site"], *then], common_gate_host="m2")
    require("TASK [Continue]" in output, f"a gate that has passed ends the playbook:\n{output}")
    machine.unreachable("m2")
    output = machine.output([gates["site"], *then], common_gate_host="m2")
    require("TASK [Continue]" not in output, f"it continues without the host of the gate:\n{output}")
    machine.unreachable()
    machine.answer("argosy wait cluster", 1, stderr="the cluster is not healthy after 3 m\n")
    output = machine.fails("the cluster is not healthy", [gates["site"], *then])
    require("TASK [Continue]" not in output, f"it continues after a failed gate:\n{output}")


def a_master_that_the_group_needs_keeps_its_data(machine):
    machine.empty("common/tasks/preflight.yml", "common/tasks/package.yml")
    kept = file(DATA / "master/CURRENT")
    machine.unit("argosy-master.service", "active", 1)
    address = "127.0.2.2:5052"
    machine.answer("argosy master list", stdout='{"masters": [%s]}' % ", ".join(
        f'{{"raftAddress": "127.0.2.{number}:5052", "voter": true}}' for number in (1, 2, 3)))
    machine.answer(f"argosy master remove {address}", 4, stderr="only 1 of 2 other masters answers\n")
    machine.fails("only 1 of 2 other masters answers", "replace_master", target_host="m2", replace_force=True)
    require(kept.exists(), "the data of the master is removed")
    require(not machine.calls("systemctl stop"), "the master is stopped")


def a_refused_second_run_names_the_continuation(machine):
    machine.empty("common/tasks/preflight.yml", "common/tasks/package.yml", "tls/tasks/main.yml", "master/tasks/main.yml")
    file(DATA / "master/CURRENT")
    file(TLS / "operator.crt")
    machine.fails("If an earlier run has started the new master, continue with add_master.yml.", "replace_master", target_host="m2")
    snapshot = file(machine.directory / "1.snapshot")
    machine.fails("If an earlier run has started the first master, continue with adopt_agents.yml, and then add_master.yml.",
                  "restore", restore_file=str(snapshot), restore_cluster="test")
    for voters, added in ((1, 3), [2]), ((1,), [2, 3]):
        machine.answer("argosy master list", stdout='{"masters": [%s]}' % ", ".join(
            f'{{"raftAddress": "127.0.2.{number}:5052", "voter": true}}' for number in voters))
        machine.passes([play for play in machine.plays("add_master") if "hosts" in play])
        joins = [f"argosy master join 127.0.2.{number}:5052 --timeout=3m" for number in added]
        require(machine.calls("argosy master join") == joins, f"add_master.yml continues by {machine.calls('join')}")


def a_removed_master_keeps_no_identity_and_no_timer(machine):
    suffixes = [".key", ".crt", "-m3.key", "-m3.csr", "-m3.crt"]
    removed = [file(TLS / f"{kind}{suffix}") for kind in ("master", "operator") for suffix in suffixes]
    removed += [file(BACKUP_KEY)]
    removed += [file(UNITS / f"argosy-{name}.{kind}") for name in ("backup", "backup-verify") for kind in ("service", "timer")]
    kept = [file(TLS / name) for name in ("ca.crt", "agent.key", "agent-m3.key", "framework.key", "framework-prometheus.key")]
    machine.unit("argosy-master.service", "active", 1)
    machine.answer("argosy master list", stdout='{"masters": [%s]}' % ", ".join(
        f'{{"raftAddress": "127.0.2.{number}:5052", "voter": true}}' for number in (1, 2, 3)))
    output = machine.passes("remove_master", target_host="m3")
    left = [str(path) for path in removed if path.exists()]
    require(not left, f"the removed master has {left}")
    require(all(path.exists() for path in kept), "files of the agent or of Prometheus are removed")
    calls = machine.calls("argosy wait cluster|systemctl disable")
    names = ["argosy-backup", "argosy-backup-verify"]
    require(calls[-2:] == [f"systemctl disable --now {name}.timer" for name in names], f"after the gates: {calls}")
    for name in "master-m3.crt", "operator-m3.crt":
        require(f"argosy ca revoke {machine.ca}/issued/m3/{name}" in output, f"no command revokes {name}:\n{output}")


def an_interrupted_removal_of_a_master_is_continued(machine):
    machine.unit("argosy-master.service", "active", 1)
    machine.answer("argosy master list", stdout='{"masters": [%s]}' % ", ".join(
        f'{{"raftAddress": "127.0.2.{number}:5052", "voter": true}}' for number in (1, 2)))
    machine.answer("argosy master (transfer|remove)", 3, stderr="no master 127.0.2.3\n")
    machine.passes("remove_master", target_host="m3")
    require(machine.calls("systemctl stop"), "the master is not stopped")


def all_backups_are_encrypted_by_one_setting(machine):
    key = file(machine.directory / "keys", KEYS)
    units = ["argosy-backup", "argosy-backup-verify"]
    for name in units:
        machine.unit(f"{name}.timer", "inactive", 0)
    TLS.mkdir(parents=True)
    output = machine.passes(role("m1", "backup"), "--diff", backup_key_file=str(key))
    expected = f"LoadCredential=backup.key:{BACKUP_KEY}\nEnvironment=ARGOSY_SNAPSHOT_KEY_FILE=%d/backup.key\n"
    for name in units:
        require(expected in (UNITS / f"{name}.service").read_text(), f"{name}.service has no key")
    require(BACKUP_KEY.exists(), "the units have no file of keys")
    require(KEYS.strip() not in output, f"the key is in the output:\n{output}")
    # Also without a run of site.yml since the setting.
    BACKUP_KEY.unlink()
    machine.passes("backup", backup_key_file=str(key), backup_fetch_directory="")
    require(BACKUP_KEY.read_text() == KEYS and BACKUP_KEY.stat().st_mode & 0o777 == 0o600, f"{BACKUP_KEY} is not a protected copy")
    calls = machine.calls("argosy snapshot (save|inspect)")
    require(len(calls) == 2 and all(f" --key-file={BACKUP_KEY}" in call for call in calls), f"backup.yml makes {calls}")


def a_copied_snapshot_is_in_a_private_directory(machine):
    TLS.mkdir(parents=True)
    fetched = machine.directory / "backups/new"
    file(pathlib.Path("/var/backups/argosy/1.snapshot"))
    machine.passes("backup", backup_fetch_directory=str(fetched), backup_name="1")
    modes = [oct(path.stat().st_mode & 0o777) for path in (fetched, fetched / "1.snapshot")]
    require(modes == ["0o700", "0o600"], f"the directory and the snapshot have the modes {modes}")
    # The copy has another mode for a moment, so the directory is protected before it is made.
    play = machine.plays("backup")[0]
    copied = [task["name"] for task in play["tasks"]].index("Copy it to the controller")
    fetched.chmod(0o755)
    machine.passes([{**play, "tasks": play["tasks"][:copied]}], backup_fetch_directory=str(fetched), backup_name="1")
    require(fetched.stat().st_mode & 0o777 == 0o700, "the directory is protected after the copy is made")


def an_encrypted_snapshot_is_restored(machine):
    machine.empty("common/tasks/preflight.yml", "common/tasks/package.yml", "tls/tasks/main.yml", "master/tasks/main.yml")
    for path, line in ("/etc/passwd", "argosy:x:64001:64001::/:/bin/sh\n"), ("/etc/group", "argosy:x:64001:\n"):
        with open(path, "a", encoding="utf-8") as users:
            users.write(line)
    key, copy = file(machine.directory / "keys", KEYS), pathlib.Path("/var/cache/argosy/restore.key")
    copy.parent.mkdir(parents=True, exist_ok=True)
    snapshot, program = file(machine.directory / "1.snapshot"), machine.directory / "bin/runuser"
    for status in 1, 0:
        program.write_text(f"#!/bin/sh\n{{ echo $*; stat --format='%U %a' {copy}; cat {copy}; }} > {machine.directory}/restored\n"
                           f"exit {status}\n")
        program.chmod(0o755)
        passed, output = machine.run(machine.plays("restore")[:3], "--diff", "--limit", "localhost,m1", restore_file=str(snapshot),
                                     restore_cluster="test", backup_key_file=str(key), common_controller_program={"stdout": "argosy"})
        require(passed is (status == 0), f"it has ended otherwise than the command with {status}:\n{output}")
        calls = machine.calls(f"argosy snapshot inspect .* --key-file={key}$")
        require(calls, f"the snapshot is verified by {machine.calls('inspect')}")
        restored = (machine.directory / "restored").read_text()
        require(restored.endswith(f" --key-file={copy}\nargosy 600\n{KEYS}"), f"the snapshot is restored by {restored}")
        require(not copy.exists() and KEYS.strip() not in output, f"a copy of the key is left, or it is in the output:\n{output}")


@contextlib.contextmanager
def cgroups():
    """Hides the cgroups of this machine. Yields the directory of cgroups of version 2."""
    lines = pathlib.Path("/proc/self/mounts").read_text().splitlines()
    directory = pathlib.Path(next(line.split()[1] for line in lines if line.split()[2] == "cgroup2"))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/fs/cgroup"], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "/sys/fs/cgroup"], check=True)


def no_host_with_running_tasks_is_uninstalled(machine):
    key = file(TLS / "agent-a1.key")
    plays = [play for play in machine.plays("uninstall") if play["name"] in ("Remove the agents", "Remove the package and the data")]
    plays[1]["tasks"] = [task for task in plays[1]["tasks"] if task["name"] != "Remove the package"]
    for parent in ("argosy", "argosy.slice/argosy"):
        with cgroups() as directory:
            file(directory / parent / "c1/cgroup.events", "populated 1\nfrozen 0\n")
            machine.fails("still runs tasks", plays, "--limit", "a1")
            require(key.exists(), "the keys of a host with running tasks are removed")


def tasks_of_an_agent_with_another_directory_are_ended(machine):
    file(DATA.parent / "elsewhere/journal/1")
    plays = [play for play in machine.plays("uninstall") if play["name"] == "Remove the agents"]
    plays[0]["tasks"][0]["loop"][0] = str(machine.directory / "bin/argosy")
    machine.passes(plays, "--limit", "a1", agent_settings={"ARGOSY_AGENT_DATA_DIR": "/var/lib/elsewhere"})
    require(machine.calls("argosy agent stop --kill-tasks --data-dir=/var/lib/elsewhere$"), "they are not ended")


def an_agent_with_another_directory_follows_a_restored_cluster(machine):
    machine.program("runuser")
    machine.unit("argosy-agent.service", "active", 1)
    machine.answer("argosy status", stdout='{"clusterId": "c1"}')
    settings = {"ARGOSY_AGENT_DATA_DIR": "/var/lib/elsewhere"}
    machine.passes("adopt_agents", "--limit", "a1", adopt_cluster="test", agent_settings=settings)
    calls = machine.calls("argosy agent adopt")
    require(calls and calls[0].endswith(" --yes c1 --data-dir=/var/lib/elsewhere"), f"it is confirmed by {calls}")


def commands_run_on_the_first_other_master(machine):
    expected = {"m1": "m2", "m2": "m1", "m3": "m1", "a1": "m1", "a2": "m1", "p1": "m1"}
    chosen = {"name": "Compare", "ansible.builtin.assert": {"that": "common_gate_host == expected[inventory_hostname]"}}
    play = {"name": "Compare", "hosts": "all", "gather_facts": False, "roles": ["common"], "tasks": [chosen]}
    # The order of a set depends on it.
    for seed in "0", "1":
        with unittest.mock.patch.dict(os.environ, PYTHONHASHSEED=seed):
            machine.passes([play], expected=expected)


def a_lost_master_does_not_prevent_the_adoption_or_drain_of_agents(machine):
    machine.program("runuser")
    machine.unit("argosy-agent.service", "active", 1)
    machine.answer("argosy status", stdout='{"clusterId": "c1"}')
    file(TLS / "operator.crt")
    machine.unreachable("m1")
    machine.passes("adopt_agents", adopt_cluster="test")
    require(len(machine.calls("argosy agent adopt")) == 2, f"not all agents follow: {machine.calls('adopt')}")
    machine.passes("drain_agent", target_host="a1")
    require(machine.calls("argosy wait agent a1 --for=idle"), "the agent is not drained")


def a_purge_empties_a_file_system(machine):
    script = machine.root / "deploy/debian/argosy/postrm"
    key = file(TLS / "agent.key")
    DATA.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", DATA], check=True)
    with cgroups():
        try:
            file(DATA / "agent/journal/1")
            path = f"{machine.directory}/bin:{os.environ['PATH']}"
            done = subprocess.run(["sh", script, "purge"], env={**os.environ, "PATH": path}, capture_output=True, text=True,
                                  check=False)
            require(done.returncode == 0, f"a purge ended with {done.returncode}: {done.stderr}")
            require(not key.exists() and not list(DATA.iterdir()), f"a purge has left data or keys: {done.stderr}")
        finally:
            subprocess.run(["umount", DATA], check=True)


def an_uninstall_empties_a_file_system(machine):
    plays = [play for play in machine.plays("uninstall") if play["name"] == "Remove the package and the data"]
    plays[0]["tasks"] = [task for task in plays[0]["tasks"] if task["name"] != "Remove the package"]
    DATA.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", DATA], check=True)
    with cgroups():
        try:
            file(DATA / "agent/journal/1")
            machine.passes(plays, "--limit", "a1")
            require(not list(DATA.iterdir()), "uninstall.yml has left data")
        finally:
            subprocess.run(["umount", DATA], check=True)
        machine.passes(plays, "--limit", "a1")
        require(not DATA.exists(), "uninstall.yml has left the directory")


def prometheus_gets_files_that_are_newer_than_its_process(machine):
    machine.tasks_of_role("monitoring/tasks/main.yml", without=["Install Prometheus"])
    for name in ("ca.crt", "framework.crt", "framework.key"):
        file(TLS / name, name)
    # An earlier run has ended after it has written the files.
    machine.unit("prometheus.service", "active", int(time.time()) + 3600)
    machine.passes(role("p1", "monitoring"))
    machine.passes(role("p1", "monitoring"))
    require(not machine.calls("systemctl restart"), "Prometheus is restarted without a change")
    machine.unit("prometheus.service", "active", 1)
    machine.passes(role("p1", "monitoring"))
    require(machine.calls("systemctl restart prometheus.service"), "Prometheus runs with older files")


def a_lost_agent_does_not_prevent_the_repair_of_masters(machine):
    machine.tasks_of_role("common/tasks/preflight.yml", without=[
        "Check the inventory and the package", "Check the releases and the clocks", "Check the disks and the kernel",
        "Check the certificate authority"])
    machine.answer("timeout .*127.0.2.12:5051", 124)
    lost = "127.0.2.12:5051: no answer within 3 s"
    for book in ("add_master", "replace_master", "restore"):
        plays = [play for play in machine.plays(book) if "preflight" in str(play)]
        require(len(plays) == 1, f"{book}.yml has {len(plays)} plays with checks")
        machine.passes([{**plays[0], **role("m1", "common", "preflight")[0]}])
    site = machine.plays("site")[0]
    machine.fails(lost, [{**site, **role("m1", "common", "preflight")[0]}])


def a_master_that_waits_for_its_group_gets_corrected_settings(machine):
    file(pathlib.Path("/etc/argosy/master.env"))
    machine.answer("argosy wait cluster", 1, stderr="the cluster is not healthy after 3 m\n")
    machine.unit("argosy-master.service", "activating", int(time.time()) + 3600)
    machine.passes(role("m1", "master", "apply"))
    require(not machine.calls("systemctl .*restart"), "the master is restarted without a change")
    machine.unit("argosy-master.service", "activating", 1)
    machine.passes(role("m1", "master", "apply"))
    require(machine.calls("systemctl --no-block restart argosy-master.service"), "it is not restarted")


def a_master_with_a_new_key_is_restarted(machine):
    key = file(TLS / "master-m1.key")
    (TLS / "master.key").symlink_to(key.name)
    started = int(time.time()) + 1
    machine.unit("argosy-master.service", "active", started)
    machine.passes(role("m1", "master", "apply"))
    require(not machine.calls("systemctl restart"), "the master is restarted without a change")
    # The times are whole seconds.
    while time.time() < started + 1:
        time.sleep(0.1)
    key.unlink()
    file(key)
    machine.passes(role("m1", "master", "apply"))
    require(machine.calls("argosy master transfer --away-from"), f"it keeps its former key: {machine.calls('')}")


CASES = [
    masters_without_a_recent_backup_are_reported,
    a_restarted_agent_must_be_connected,
    a_missing_or_empty_file_of_a_ca_leaves_the_trusted_ones,
    a_ca_directory_may_begin_with_a_tilde,
    a_check_run_does_not_need_a_ca,
    a_lost_request_does_not_prevent_the_renewal,
    an_interruption_leaves_no_certificate_of_a_former_key,
    a_lost_host_does_not_prevent_the_renewal_of_others,
    a_failed_gate_ends_the_playbook,
    a_master_that_the_group_needs_keeps_its_data,
    a_refused_second_run_names_the_continuation,
    a_removed_master_keeps_no_identity_and_no_timer,
    an_interrupted_removal_of_a_master_is_continued,
    all_backups_are_encrypted_by_one_setting,
    a_copied_snapshot_is_in_a_private_directory,
    an_encrypted_snapshot_is_restored,
    no_host_with_running_tasks_is_uninstalled,
    tasks_of_an_agent_with_another_directory_are_ended,
    an_agent_with_another_directory_follows_a_restored_cluster,
    commands_run_on_the_first_other_master,
    a_lost_master_does_not_prevent_the_adoption_or_drain_of_agents,
    a_purge_empties_a_file_system,
    an_uninstall_empties_a_file_system,
    prometheus_gets_files_that_are_newer_than_its_process,
    a_lost_agent_does_not_prevent_the_repair_of_masters,
    a_master_that_waits_for_its_group_gets_corrected_settings,
    a_master_with_a_new_key_is_restarted,
]
