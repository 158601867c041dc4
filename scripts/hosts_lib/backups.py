"""Backups of a test cluster: as the units of masters make and verify them, and by backup.yml."""

from hosts_lib.load import Services
from hosts_lib.machine import Failed

DIRECTORY = "/var/backups/argosy"
SAVE, VERIFY = "argosy-backup.service", "argosy-backup-verify.service"
# Prints the processes and files of a verification. The command does not match its own patterns.
LEFT = "pgrep -af '[a]rgosy-verify[.]'; find /tmp /var/tmp -name '[a]rgosy-verify.*'; true"


def back_up(cluster):
    """Makes a backup as the timer of each master does, of which only the leader's writes, and one by backup.yml."""
    make(cluster)
    directory = cluster.run.directory / "backups"
    cluster.play("backup", "--extra-vars", f"backup_fetch_directory={directory}")
    return max(directory.glob("*.snapshot"))


def make(cluster):
    """Makes a backup as the timer of each master does. Returns the leader, which alone has one."""
    for master in cluster.masters:
        master.root(f"rm -f {DIRECTORY}/*; systemctl start {SAVE}")
    found = [master.host.name for master in cluster.masters if master.root(f"ls {DIRECTORY}")]
    if found != [cluster.leader()]:
        raise Failed(f"the timers have written backups on {found}, and {cluster.leader()} leads")
    return cluster.hosts[found[0]]


def backup(cluster):
    """Verifies a backup as the timer does, also a truncated one, and loses the directory and the space of backups."""
    services = Services(cluster)
    leader = make(cluster)
    process = leader.root("systemctl show --value --property MainPID argosy-master")
    verified(leader)
    cluster.log(f"the backup of {leader.host.name} was restored into a temporary cluster and verified")
    for master in cluster.masters:
        if master is not leader and "verifying " in (log := run(master, VERIFY, passes=True)):
            raise Failed(f"{master.host.name} has no backup, and has verified one:\n{log}")
    interrupted(leader)
    truncated(cluster, leader)
    lost(cluster, leader)
    if (now := leader.root("systemctl show --value --property MainPID argosy-master")) != process:
        raise Failed(f"the master of {leader.host.name} has another process after verifications: {process} before, {now} after")
    cluster.healthy()
    services.check("verifications of backups")


def run(master, unit, passes):
    """Starts a unit, which must succeed or must fail. Returns what it has logged."""
    begun = master.root("date +%s.%6N")
    done = master.host.ssh(f"systemctl start {unit}", capture_output=True, text=True)
    log = master.root(f"journalctl --sync; journalctl --no-pager --output cat --unit {unit} --since @{begun}")
    if (done.returncode == 0) != passes:
        raise Failed(f"{unit} of {master.host.name} ended with {done.returncode}: {done.stderr}{log}")
    return log


def verified(master):
    """Verifies the newest backup. The test cluster has three agents."""
    log = run(master, VERIFY, passes=True)
    if "a restored master serves agents 3 " not in log:
        raise Failed(f"{VERIFY} of {master.host.name} has not verified a backup of three agents:\n{log}")
    nothing_left(master)


def nothing_left(master):
    if left := master.root(LEFT):
        raise Failed(f"a verification has left on {master.host.name}: {left}")


def interrupted(master):
    """Stops a verification while its temporary master runs."""
    master.root(f"systemctl start --no-block {VERIFY}")
    master.until("pgrep -f 'argosy master start --insecure-plaintex[t]'", "the temporary master runs")
    master.root(f"systemctl stop {VERIFY}")
    nothing_left(master)


def truncated(cluster, master):
    """Verifies a truncated backup, which is the newest one. verify.yml reports the failure until the next success."""
    newest = master.root(f"ls -t {DIRECTORY}/*.snapshot | head -1")
    master.root(f"head -c -100 {newest} > {DIRECTORY}/truncated.snapshot")
    log = run(master, VERIFY, passes=False)
    if "truncated.snapshot cannot be used: it is damaged: it is truncated" not in log:
        raise Failed(f"a truncated backup is not named in the log of {VERIFY}:\n{log}")
    nothing_left(master)
    cluster.refused("or its verification, has failed", "verify")
    master.root(f"rm {DIRECTORY}/truncated.snapshot")
    verified(master)


def lost(cluster, master):
    """Makes backups without their directory, on a full file system, and without a certificate. Each fails, and the next
    one succeeds."""
    certificate = "/etc/argosy/tls/operator.crt"
    for loss, remedy, message in [
            (f"mv {certificate} {certificate}.lost", f"mv {certificate}.lost {certificate}", f"cannot read {certificate}"),
            (f"mv {DIRECTORY} {DIRECTORY}.lost", f"mv {DIRECTORY}.lost {DIRECTORY}", "No such file or directory"),
            (f"mount -t tmpfs -o size=4k tmpfs {DIRECTORY} && head -c 4096 /dev/zero > {DIRECTORY}/filler",
             f"umount {DIRECTORY}", "No space left on device")]:
        master.root(loss)
        log = run(master, SAVE, passes=False)
        left = master.root(f"ls -A {DIRECTORY} 2> /dev/null | grep -vx filler || true")
        master.root(remedy)
        if message not in log or left:
            raise Failed(f"after {loss}, a backup has left {left!r}, and has not logged: {message}\n{log}")
        cluster.log(f"a backup fails after {loss}: {message}")
    run(master, SAVE, passes=True)
