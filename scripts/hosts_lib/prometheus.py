"""What the Prometheus of a test cluster has recorded."""

import json
import time

from hosts_lib.machine import Failed

QUERY = """python3 - <<'END'
import json, urllib.parse, urllib.request
query = urllib.parse.urlencode({"query": %r})
answer = urllib.request.urlopen(f"http://127.0.0.1:9090/api/v1/query?{query}", timeout=5)
print(json.dumps([[one["metric"], one["value"][1]] for one in json.load(answer)["data"]["result"]]))
END"""
FIRING = 'ALERTS{alertstate="firing"}'


def query(cluster, expression):
    """Returns pairs of labels and value."""
    return json.loads(cluster.hosts["p1"].root(QUERY % expression))


def scraped(cluster):
    """Waits until Prometheus has read all masters and agents."""
    deadline = time.monotonic() + 120
    while len(up := [labels["instance"] for labels, value in query(cluster, 'up{job=~"argosy.*"}') if value == "1"]) < 6:
        if time.monotonic() > deadline:
            raise Failed(f"Prometheus reads only {up}")
        time.sleep(1)
    cluster.log("Prometheus reads all masters and agents")


def restricted(cluster):
    """Fails if Prometheus or its host may do more than read metrics and targets."""
    host = cluster.hosts["p1"]
    if found := host.root("find /etc/argosy /etc/prometheus -name '*operator*'"):
        raise Failed(f"the host of Prometheus has the identity of an operator: {found}")
    for command, wanted in (("agent list", 0), ("acl show", 4), ("weight set rehearsal 2", 4)):
        done = host.host.ssh(f"{cluster.prometheus} argosy {command} --timeout 60s", capture_output=True, text=True)
        if done.returncode != wanted:
            raise Failed(f"as Prometheus, argosy {command} ended with {done.returncode}, and not {wanted}: {done.stderr}")
    cluster.log("the identity of Prometheus may read metrics and targets, and change nothing")


def firing(cluster):
    """Returns the names of the alerts that fire."""
    return {labels["alertname"] for labels, _ in query(cluster, FIRING)}


def fired(cluster, seconds):
    """Returns the names of the alerts that have fired in the last seconds."""
    return {labels["alertname"] for labels, _ in query(cluster, f"max_over_time({FIRING}[{seconds}s])")}
