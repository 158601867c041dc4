"""The rehearsal: what happens to a cluster of many hosts in its life, each event as one step.

A step begins and ends with a healthy cluster of three masters and three agents, each with a service,
so that a developer can repeat it alone: scripts/test-deploy step NAME. Only `deploy` and `uninstall`
differ.
"""

import json
import os
import time

from hosts_lib.backups import back_up, backup
from hosts_lib.bad_input import bad_snapshots, foreign, refusals
from hosts_lib.cluster import MASTERS, SPARE
from hosts_lib.load import WITNESS, Load, Services, check_followed, follow_logs, prepare, start_service
from hosts_lib.machine import Failed
from hosts_lib.play import Play
from hosts_lib.prometheus import fired, firing, restricted, scraped

# The least time for which a rack is cut off.
CUT_S = int(os.environ.get("ARGOSY_CUT_S", "75"))
# Alerts that must fire while a master is cut off. Their conditions must hold for a minute.
CUT_ALERTS = {"ArgosyMasterDown", "ArgosyQuorumAtRisk"}
# The longest pause of writes during a rolling upgrade.
PAUSE_S = float(os.environ.get("ARGOSY_PAUSE_S", "1"))
# The tasks between two interruptions of a playbook. With 1, the step takes hours.
INTERRUPT_EVERY = int(os.environ.get("ARGOSY_INTERRUPT_EVERY", "12"))
# A gate of a playbook that must fail.
SHORT_GATE = ("--extra-vars", "common_gate_timeout=20s")


def deploy(cluster):
    """Deploys. The first run is interrupted, the next one continues, and a repetition changes nothing."""
    before = {name: [sorted(host.files()), host.state()] for name, host in cluster.hosts.items()}
    (cluster.run.directory / "before.json").write_text(json.dumps(before))
    for agent in cluster.agents:
        prepare(agent)
    interrupted = Play(cluster, "site")
    interrupted.until(r"TASK \[common : Install the package\]")
    time.sleep(5)
    interrupted.interrupt()
    cluster.log(f"site.yml was interrupted after {interrupted.seconds:.0f} s, while it installed packages")
    cluster.play("site")
    cluster.identify()
    cluster.unchanged("site")
    cluster.play("verify")
    restricted(cluster)
    Services.start(cluster)


def restart(cluster):
    """Moves the leadership, which changes nothing for site.yml, and restarts all processes."""
    services = Services(cluster)
    # One of these two leads.
    for master in cluster.masters[:2]:
        cluster.argosy(f"master transfer --away-from {master.host.address}:5050")
    cluster.unchanged("site")
    # A deactivated agent restarts like the others.
    cluster.argosy("agent deactivate a3")
    with Load(cluster, "rolling_restart.yml"):
        cluster.play("rolling_restart")
    cluster.argosy("agent reactivate a3")
    services.check("a restart of all processes")
    scraped(cluster)


def upgrade(cluster):
    """Upgrades under load, and measures the pauses of writes."""
    services = Services(cluster)
    version = cluster.choose("+1")
    with Load(cluster, "upgrade.yml") as load:
        cluster.play("upgrade")
    cluster.check_version(version)
    services.check("an upgrade")
    pause, _ = load.longest_pause()
    if pause > PAUSE_S:
        raise Failed(f"writes have paused for {pause:.2f} s during a rolling upgrade, more than {PAUSE_S} s")


def downgrade(cluster):
    """Returns to the former package before the level is raised."""
    services = Services(cluster)
    version = cluster.choose()
    with Load(cluster, "upgrade.yml to the former package"):
        cluster.play("upgrade")
    cluster.check_version(version)
    services.check("a downgrade")


def resume(cluster):
    """Loses the leader's host after the first master is upgraded. The next run continues, and raises the level."""
    services = Services(cluster)
    version = cluster.choose("+1")
    with Load(cluster, "an upgrade that lost the leader's host"):
        play = Play(cluster, "upgrade", *SHORT_GATE)
        play.until(r"TASK \[master : Restart the master\][^\n]*\nchanged: \[m1\]")
        leader = cluster.leader()
        cluster.run.host(leader).power_off()
        cluster.log(f"the leader's host {leader} has lost its power after m1 was upgraded")
        # Commands of operators may run on the host that is lost.
        cluster.failed(play, "not healthy", "No route to host")
        cluster.run.up([leader])
        cluster.healthy()
        cluster.play("upgrade", "--extra-vars", "upgrade_raise_level=true")
    cluster.check_version(version)
    services.check("a resumed upgrade")


def trouble(cluster):
    """Upgrades an agent with a full disk, and a master and an agent whose hosts lose their power during their upgrade."""
    services = Services(cluster, ["a1", "a3"])
    version = cluster.choose("+2")
    lose_power(cluster, "m1", version)
    cluster.healthy()
    agent = cluster.hosts["a2"]
    # A layer of /usr/bin with less space than the executable needs.
    agent.root("mkdir -p /mnt/full && mount -t tmpfs -o size=40M tmpfs /mnt/full && mkdir /mnt/full/upper /mnt/full/work && "
               "mount -t overlay -o lowerdir=/usr/bin,upperdir=/mnt/full/upper,workdir=/mnt/full/work overlay /usr/bin")
    cluster.refused("No space left on device", "upgrade")
    agent.root("umount --lazy /usr/bin && umount --lazy /mnt/full && rmdir /mnt/full")
    lose_power(cluster, "a2", version)
    cluster.play("upgrade")
    cluster.check_version(version)
    services.check("an upgrade with trouble")
    agent.root(f"true > {WITNESS}/services")
    cluster.operate("wait task service-a2 --for ended --timeout 60s", "the service of a2 has ended with its host")
    Services.start(cluster, ["a2"])


def lose_power(cluster, name, version):
    """Ends a host like a power cut while it installs a package, which is not configured then. The host boots again."""
    play = Play(cluster, "upgrade", *SHORT_GATE)
    while cluster.version(name) != version:
        if play.process.poll() is not None:
            raise Failed(f"{play.title} has ended before {name} had version {version}:\n{play.tail()}")
        time.sleep(0.05)
    cluster.run.host(name).power_off()
    if play.wait():
        raise Failed(f"{play.title} has passed although {name} has lost its power")
    cluster.run.up([name])
    status = cluster.hosts[name].root("dpkg-query --show --showformat='${db:Status-Status}' argosy")
    cluster.log(f"{name} has lost its power during its upgrade; its package is {status}")


def interruptions(cluster):
    """Interrupts upgrade.yml and renew_certificates.yml at one task after the other, and starts them again each time."""
    services = Services(cluster)
    version = cluster.choose("+3")
    with Load(cluster, "interrupted playbooks"):
        for book in (("upgrade",), ("renew_certificates", "--extra-vars", "tls_renew_all=true")):
            at = 1
            while (play := Play(cluster, *book)).reaches(at):
                play.interrupt()
                at += INTERRUPT_EVERY
            cluster.finish(play)
            cluster.log(f"{play.title} was interrupted {(at - 1) // INTERRUPT_EVERY} times before")
    cluster.check_version(version)
    services.check("interrupted playbooks")
    scraped(cluster)
    cluster.play("verify")


def replace(cluster):
    """Destroys the leader's host, and replaces the master."""
    services = Services(cluster)
    leader = cluster.leader()
    with Load(cluster, f"the loss of the leader's host {leader}"):
        cluster.rebuild(leader)
        cluster.play("replace_master", "--extra-vars", f"target_host={leader}")
    services.check("a replaced master")
    cluster.play("verify")


def members(cluster):
    """Adds two masters and removes them, one of them while it leads."""
    services = Services(cluster)
    cluster.run.regroup({name: ["masters"] for name in SPARE})
    with Load(cluster, "two added and two removed masters"):
        cluster.play("add_master")
        voters = cluster.argosy("master list --output json").count('"voter": true')
        if voters != 5:
            raise Failed(f"the group has {voters} voters after two masters were added to three")
        last = cluster.run.host("m5")
        cluster.argosy(f"master transfer {last.address}:5050 --timeout 60s")
        cluster.play("remove_master", "--extra-vars", "target_host=m5")
        cluster.play("remove_master", "--extra-vars", "target_host=m4")
        cluster.run.regroup({name: ["spare"] for name in SPARE})
        cluster.play("site")
    cluster.play("verify")
    services.check("added and removed masters")


def certificates(cluster):
    """Renews all certificates, then replaces the CA, under `argosy logs --follow`."""
    services = Services(cluster)
    former = cluster.authority
    number = int(former.name.removeprefix("ca-")) + 1
    follow_logs(cluster)
    with Load(cluster, "renewed certificates and a replaced CA"):
        cluster.play("renew_certificates", "--extra-vars", "tls_renew_all=true")
        cluster.authority = former.with_name(f"ca-{number}")
        both = json.dumps({"tls_trusted_ca_files": [f"{former}/ca.crt"]})
        cluster.play("renew_certificates", "--extra-vars", both)
        cluster.identify()
        cluster.play("renew_certificates")
    check_followed(cluster)
    services.check("a replaced CA")
    scraped(cluster)
    cluster.play("verify")


def cut(cluster):
    """Cuts a rack off from the network: the leader's host and an agent's, which still reach each other."""
    services = Services(cluster)
    rack = [cluster.leader(), "a3"]
    with Load(cluster, "the cut of a rack"):
        begun = time.monotonic()
        for name in rack:
            cluster.run.host(name).cut()
        time.sleep(CUT_S)
        # Prometheus looks every 15 seconds.
        while missing := CUT_ALERTS - firing(cluster):
            if time.monotonic() > begun + CUT_S + 90:
                raise Failed(f"these alerts do not fire: {missing}")
            time.sleep(1)
        for name in rack:
            cluster.run.host(name).connect()
        seconds = time.monotonic() - begun
        cluster.healthy()
        cluster.argosy("wait agent a3 --for connected --timeout 60s")
    services.check(f"a cut of {seconds:.0f} s")
    deadline = time.monotonic() + 120
    while left := CUT_ALERTS & firing(cluster):
        if time.monotonic() > deadline:
            raise Failed(f"these alerts still fire: {left}")
        time.sleep(1)
    found = " ".join(sorted(fired(cluster, int(time.monotonic() - begun))))
    cluster.log(f"{' '.join(rack)} were cut off for {seconds:.0f} s; alerts that have fired: {found}; "
                f"resolved: {' '.join(sorted(CUT_ALERTS))}")


def chaos(cluster):
    """Kills each master and each agent once, and transfers leadership by argosy-chaos."""
    services = Services(cluster)
    with Load(cluster, "chaos.yml"):
        cluster.play("chaos", "--extra-vars", "chaos_cluster=test")
    services.check("chaos.yml")


def majority(cluster):
    """Loses a master's host and the data of another, and recovers from the third."""
    services = Services(cluster)
    cluster.rebuild("m1")
    cluster.hosts["m2"].root("systemctl stop argosy-master && rm -rf /var/lib/argosy/master")
    survivor = cluster.hosts["m3"]
    begun = time.monotonic()
    survivor.root("systemctl stop argosy-master && runuser --user=argosy -- argosy master recover --dry-run 2>&1 && "
                  "runuser --user=argosy -- argosy master recover --yes 2>&1 && systemctl start argosy-master")
    cluster.operate("status --timeout 5s", "the recovered master leads")
    cluster.log(f"m3 was stopped, recovered and leads after {time.monotonic() - begun:.1f} s")
    cluster.play("adopt_agents", "--extra-vars", "adopt_cluster=test")
    cluster.play("add_master")
    services.check("the loss of a majority")
    cluster.play("verify")


def restore(cluster):
    """Loses all masters' hosts, and restores a backup. A task that the backup lacks is quarantined."""
    services = Services(cluster)
    snapshot = back_up(cluster)
    cluster.refused("is not empty. Stop the unit", "restore", "--extra-vars", f"restore_file={snapshot}",
                    "--extra-vars", "restore_cluster=test")
    start_service(cluster, "late", "a2", "exec sleep 86422")
    late = cluster.hosts["a2"].root("pgrep -fx 'sleep 86422'")
    cluster.rebuild(*MASTERS)
    bad_snapshots(cluster, snapshot)
    cluster.play("restore", "--extra-vars", f"restore_file={snapshot}", "--extra-vars", "restore_cluster=test")
    cluster.play("adopt_agents", "--extra-vars", "adopt_cluster=test")
    services.check("the loss of all masters")
    if cluster.hosts["a2"].root("pgrep -fx 'sleep 86422'") != late:
        raise Failed("a task that the backup lacks has another process")
    cluster.play("adopt_agents", "--extra-vars", "adopt_cluster=test", "--extra-vars", "agent_end_quarantined=true",
                 "--limit", "a2")
    cluster.hosts["a2"].until("! pgrep -fx 'sleep 86422'", "the quarantined task has ended")
    services.check("the end of the quarantined task")
    cluster.unchanged("site")
    cluster.play("verify")


def drain(cluster):
    """Drains an agent, whose framework ends its service, and removes its host for good."""
    services = Services(cluster, ["a1", "a2"])
    play = Play(cluster, "drain_agent", "--extra-vars", "target_host=a3")
    play.until(r"TASK \[agent : Wait until its tasks have ended\]")
    time.sleep(3)
    if play.process.poll() is not None:
        raise Failed(f"drain_agent.yml has not waited for the service of a3:\n{play.tail()}")
    cluster.argosy("task kill service-a3 --timeout 30s")
    cluster.finish(play)
    cluster.hosts["a3"].root("systemctl disable --now argosy-agent")
    cluster.argosy("agent gone a3 --yes --timeout 60s")
    cluster.run.regroup({"a3": ["spare"]})
    cluster.play("verify")
    services.check("a removed agent")
    cluster.run.regroup({"a3": ["agents"]})


def uninstall(cluster):
    """Removes everything, also from hosts that are masters no more, and compares each host with before."""
    before = json.loads((cluster.run.directory / "before.json").read_text())
    cluster.run.regroup({name: ["masters"] for name in SPARE})
    cluster.refused("Confirm it by", "uninstall", "--extra-vars", "uninstall_cluster=other")
    cluster.play("uninstall", "--extra-vars", "uninstall_cluster=test")
    for name, installed in cluster.hosts.items():
        files, state = before[name]
        left = {path for path in installed.files() - set(files) if "argosy" in path}
        if left:
            raise Failed(f"uninstall.yml has left on {name}: {' '.join(sorted(left)[:20])}")
        if installed.state() != state:
            raise Failed(f"uninstall.yml has left in the kernel of {name}:\n{installed.state()}\nbefore:\n{state}")
        if users := installed.root("getent passwd argosy argosy-agent; getent group argosy argosy-agent; true"):
            raise Failed(f"uninstall.yml has left users on {name}: {users}")
    cluster.log("uninstall.yml has left no file, user, rule, mount or cgroup of Argosy")


# The steps of `scripts/test-deploy long`.
STEPS = [deploy, refusals, restart, upgrade, replace, members, certificates, cut, chaos, majority, restore, drain, uninstall]
# Steps for `scripts/test-deploy step` only: `long` takes long enough.
SINGLE = [downgrade, resume, trouble, interruptions, backup, foreign]


def rehearse(cluster, names=()):
    """Performs all steps, or those that are named, and prints how long each has taken."""
    known = {step.__name__: step for step in STEPS + SINGLE}
    if unknown := set(names) - set(known):
        raise Failed(f"no step {' '.join(unknown)}; there are: {' '.join(known)}")
    times = []
    for name in names or [step.__name__ for step in STEPS]:
        cluster.log(f"--- {name}: {known[name].__doc__.splitlines()[0]}")
        cluster.choose_installed()
        begun = time.monotonic()
        known[name](cluster)
        times.append(f"{name} {time.monotonic() - begun:.0f} s")
    cluster.log(f"all steps have passed: {', '.join(times)}")
