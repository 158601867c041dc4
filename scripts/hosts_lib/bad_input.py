"""Wrong inventories and snapshots, which playbooks must refuse with one clear message."""

import base64
import shlex
import struct

from hosts_lib.backups import back_up
from hosts_lib.cluster import MASTERS
from hosts_lib.load import Services
from hosts_lib.machine import Failed, call


def refusals(cluster):
    """Runs playbooks with wrong settings. Nothing is changed."""
    cluster.run.regroup({"m3": ["spare"]})
    cluster.refused("The inventory has 2 masters", "site")
    cluster.run.regroup({name: ["spare"] for name in MASTERS})
    cluster.refused("The inventory has 0 masters", "site")
    cluster.run.regroup({name: ["masters"] for name in MASTERS})
    cluster.choose("+other")
    cluster.refused("Run the playbook upgrade.yml: this one changes no release", "site")
    cluster.choose_installed()
    wrong_authority(cluster)
    closed_port(cluster)
    cluster.refused("Name a host of the group `masters`", "replace_master")
    cluster.refused("has the data of a master", "replace_master", "--extra-vars", "target_host=m2")
    cluster.refused("Name a snapshot on the controller", "restore", "--extra-vars", "restore_file=/missing")
    cluster.refused("No such file or directory", "backup", "--extra-vars", "backup_directory=/proc/lost")
    cluster.play("verify")


def wrong_authority(cluster):
    """Uses the CA of another cluster of the same name."""
    own = cluster.authority
    cluster.authority = cluster.run.directory / "ca-wrong"
    if not cluster.authority.exists():
        call(cluster.program, "ca", "init", "--cluster", "test", "--ca", cluster.authority)
    cluster.refused("trusts another CA than the one", "site")
    cluster.authority = own


def closed_port(cluster):
    """Closes the port of Raft on a host."""
    host = cluster.hosts["m2"]
    host.root("nft add table inet closed && nft add chain inet closed input '{ type filter hook input priority 0; }' && "
              "nft add rule inet closed input tcp dport 5052 ct state new drop")
    try:
        cluster.refused(f"does not reach {host.host.address}:5052: no answer within 3 s", "site")
    finally:
        host.root("nft delete table inet closed")


# Makes a snapshot of a cluster of one master, in a separate network namespace.
OTHER_CLUSTER = """
ip link set lo up
work=$(mktemp -d)
argosy master start --insecure-plaintext --listen 127.0.0.1:5050 --peers 127.0.0.1 --data-dir "$work/master" 2> "$work/log" &
trap 'kill $!; wait; rm -rf "$work"' EXIT
argosy wait cluster --for healthy --masters 127.0.0.1:5050 --timeout 60s >&2
argosy snapshot save --masters 127.0.0.1:5050 "$work/snapshot" >&2
base64 "$work/snapshot"
"""


def foreign(cluster):
    """Restores a snapshot of another cluster, which the agents do not follow, and then the right one."""
    services = Services(cluster)
    snapshot = back_up(cluster)
    other = snapshot.with_name("other")
    other.write_bytes(base64.b64decode(cluster.hosts["p1"].root(f"unshare --net sh -ec {shlex.quote(OTHER_CLUSTER)}")))
    confirmation = ("--extra-vars", "adopt_cluster=test")
    cluster.rebuild(*MASTERS)
    cluster.play("restore", "--extra-vars", f"restore_file={other}", "--extra-vars", "restore_cluster=test")
    cluster.refused("the agent belongs to another one", "adopt_agents", *confirmation)
    if (now := services.find()) != services.before:
        raise Failed(f"with a snapshot of another cluster, services have other processes: {services.before} before, {now} after")
    cluster.rebuild(*MASTERS)
    cluster.play("restore", "--extra-vars", f"restore_file={snapshot}", "--extra-vars", "restore_cluster=test")
    cluster.play("adopt_agents", *confirmation)
    services.check("a snapshot of another cluster")
    cluster.play("verify")


def bad_snapshots(cluster, snapshot):
    """Restores a truncated snapshot, and one of a newer format, while the masters have no data."""
    content = snapshot.read_bytes()
    truncated = snapshot.with_name("truncated")
    truncated.write_bytes(content[:-100])
    newer = snapshot.with_name("newer")
    newer.write_bytes(newer_format(content))
    for file, message in ((truncated, "it is truncated"), (newer, "newer than format")):
        cluster.refused(message, "restore", "--extra-vars", f"restore_file={file}", "--extra-vars", "restore_cluster=test")


def newer_format(content):
    """Returns a saved snapshot with a header of the next format: after 8 bytes, a frame with kind, length and checksum."""
    kind, length, _ = struct.unpack_from("<BII", content, 8)
    begin = 8 + 9
    header = bytearray(content[begin:begin + length])
    # The first field of the header is the format.
    header[1] += 1
    head = struct.pack("<BII", kind, length, crc32c(header) ^ kind << 24)
    return content[:8] + head + bytes(header) + content[begin + length:]


def crc32c(content):
    remainder = 0xFFFFFFFF
    for byte in content:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF
