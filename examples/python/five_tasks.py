#!/usr/bin/env python3
"""Five tasks on an Argosy cluster, written against proto/ and docs/protocol.md alone.

A whole framework: it finds the leader in a list of masters, resumes its session and its offers
when the leader changes, repeats calls of unknown outcome under their numbers, and acknowledges
every update. Run it so:

    examples/python/stubs /tmp/argosy-python
    eval "$(argosy context env)"
    PYTHONPATH=/tmp/argosy-python/stubs /tmp/argosy-python/bin/python examples/python/five_tasks.py

The second command names masters and files of TLS by variables, which the flags replace. With
--token-file, the framework has the identity of a token that `argosy token create --principal
framework/NAME` has printed, and needs no certificate.
"""

import argparse
import os
import pathlib
import secrets
import sys
import threading
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from argosy.v1 import scheduler_pb2 as v1
from argosy.v1 import scheduler_pb2_grpc, types_pb2

PROTOCOL = types_pb2.Protocol(version=1, release="five_tasks.py")
# Nothing is known of the outcome of a call that ends so: it is repeated under its number.
UNKNOWN_OUTCOME = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
# Codes, of an event and of calls, for a framework that was removed or never existed.
REMOVED = ("removed", "framework-removed", "unknown-framework")
ENDED = {
    types_pb2.TASK_STATE_FINISHED, types_pb2.TASK_STATE_FAILED, types_pb2.TASK_STATE_KILLED,
    types_pb2.TASK_STATE_ERROR, types_pb2.TASK_STATE_DROPPED, types_pb2.TASK_STATE_GONE,
    types_pb2.TASK_STATE_GONE_BY_OPERATOR,
}
NEEDED = {"cpus": 100, "mem": 32_000}  # thousandths: 0.1 processors, 32 MiB


class Refused(Exception):
    """A refusal by the cluster, with its reason."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Lost(Exception):
    """This master is of no use at the moment; what was asked may or may not have happened."""


def credentials(ca, certificate, key, token):
    """TLS with a master, whose certificate must name the host in its address; None for plaintext.
    Each call has the token, which is never sent without TLS."""
    if ca is None:
        if token:
            sys.exit("five tasks: a token needs TLS: give --tls-ca")
        return None
    ca, certificate, key = (path and pathlib.Path(path).read_bytes() for path in (ca, certificate, key))
    tls = grpc.ssl_channel_credentials(ca, key, certificate)
    if not token:
        return tls
    bearer = grpc.access_token_call_credentials(pathlib.Path(token).read_text().strip())
    return grpc.composite_channel_credentials(tls, bearer)


def log(text):
    print(text, flush=True)


def reason(error):
    """The machine's word for a refusal: `google.rpc.ErrorInfo.reason` in the status details."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return error.code().name.lower()


class FiveTasks:
    def __init__(self, masters, command, pause, tls=None):
        self.masters = masters
        self.tls = tls
        self.command = command
        self.pause = pause
        self.next_launch = 0.0
        self.session = secrets.randbelow(2**63 - 1) + 1
        self.framework_id = ""
        self.cluster_id = ""
        self.offers = {}  # held, by id
        self.number = 0
        self.open = {}  # calls without an answer, by number: (method, request)
        self.to_launch = [f"task-{n}" for n in range(1, 6)]
        self.acknowledged = set()
        self.failure = None
        self.gone = False

    # Finding the leader, and losing it.

    def run(self):
        at, tries = 0, 0
        while not self.gone:
            master = self.masters[at % len(self.masters)]
            try:
                self.follow(master)
            except Lost as why:
                log(f"{master}: {why}")
                at += 1
                tries = 0 if "was subscribed" in str(why) else tries + 1
                time.sleep(min(0.05 * 2**tries, 1.0))
        return self.failure

    def connect(self, master):
        options = [("grpc.enable_retries", 0)]
        if self.tls is None:
            return grpc.insecure_channel(master, options)
        return grpc.secure_channel(master, self.tls, options)

    def follow(self, master):
        """One stream, until it ends."""
        subscribed = False
        with self.connect(master) as channel:
            self.stub = scheduler_pb2_grpc.SchedulerStub(channel)
            stream = self.stub.Subscribe(v1.SubscribeRequest(
                protocol=PROTOCOL,
                info=types_pb2.FrameworkInfo(name="five-tasks-python", roles=["*"], failover_timeout_ms=60_000,
                                             capabilities=["heartbeats"]),
                framework_id=self.framework_id,
                session=self.session,
                cluster_id=self.cluster_id,
                held=self.held(),
            ))
            self.pulse = None
            watch = Watch(stream, silence=5.0)
            try:
                for event in stream:
                    watch.heard()
                    subscribed = True
                    self.happened(event)
                    if self.gone:
                        return
            except grpc.RpcError as error:
                if error.code() not in UNKNOWN_OUTCOME:
                    self.ended(reason(error), error.details())
                    return
                raise Lost(f"{'was subscribed; ' if subscribed else ''}{error.details()}") from None
            finally:
                watch.stop()
                if self.pulse:
                    self.pulse.stop()
                stream.cancel()
        raise Lost("was subscribed; the stream has ended")

    def held(self):
        """Every offer that may still be used: those at hand, and those of calls without an answer."""
        held = [types_pb2.HeldOffer(offer=offer) for offer in self.offers.values()]
        for method, request in self.open.values():
            held.extend(request.offers if method == "Accept" else [])
        return held

    # What happens.

    def happened(self, event):
        kind = event.WhichOneof("event")
        if kind == "subscribed":
            self.subscribed(event.subscribed)
        elif kind == "offers":
            self.offers.update((offer.offer_id, offer) for offer in event.offers.offers)
        elif kind == "rescind":
            self.offers.pop(event.rescind.offer_id, None)
        elif kind == "update":
            self.updated(event.update)
        elif kind == "error":
            self.ended(event.error.code, event.error.message)
        # Heartbeats, hints about agents and reasons for waiting need no answer.
        if not self.gone:
            self.launch()

    def subscribed(self, subscribed):
        self.framework_id = subscribed.framework_id
        self.cluster_id = subscribed.cluster_id
        kept = set(subscribed.kept_offers)
        self.offers = {name: offer for name, offer in self.offers.items() if name in kept}
        log(f"subscribed as {self.framework_id} in epoch {subscribed.epoch}, kept offers: {' '.join(sorted(kept)) or 'none'}")
        if subscribed.scheduler_heartbeat_interval_ms:
            request = v1.HeartbeatRequest(framework_id=self.framework_id, session=self.session)
            self.pulse = Pulse(self.stub, request, subscribed.scheduler_heartbeat_interval_ms / 1000)
        # What was asked before and not answered is asked again, as it was.
        for number in sorted(self.open):
            self.ask(number)

    def launch(self):
        """One task an offer; what is left of it comes again at once."""
        for offer in list(self.offers.values()):
            if not self.to_launch or time.monotonic() < self.next_launch:
                return
            amounts = {resource.name: resource.scalar_milli for resource in offer.resources}
            if any(amounts.get(name, 0) < needed for name, needed in NEEDED.items()):
                continue
            self.next_launch = time.monotonic() + self.pause
            task_id = self.to_launch.pop(0)
            del self.offers[offer.offer_id]
            log(f"launching {task_id} on {offer.agent_id} with offer {offer.offer_id}")
            task = types_pb2.TaskSpec(
                task_id=task_id, name=task_id, shell=self.command,
                resources=[types_pb2.Resource(name=name, scalar_milli=needed) for name, needed in NEEDED.items()],
            )
            self.call("Accept", v1.AcceptRequest(
                offers=[types_pb2.HeldOffer(offer=offer)],
                operations=[v1.Operation(launch=v1.Launch(tasks=[task]))],
                filter_ms=0,
            ))

    def updated(self, status):
        state = types_pb2.TaskState.Name(status.state).removeprefix("TASK_STATE_")
        # A repeated update, as after a change of leader, is acknowledged again, without harm.
        try:
            self.stub.Acknowledge(v1.AcknowledgeRequest(
                framework_id=self.framework_id, session=self.session,
                acknowledgements=[v1.Acknowledgement(task_id=status.task_id, revision=status.revision)],
            ), timeout=10)
        except grpc.RpcError as error:
            if error.code() in UNKNOWN_OUTCOME:
                raise Lost(f"was subscribed; {error.details()}") from None
            raise Refused(reason(error), error.details()) from None
        log(f"acknowledged {status.task_id} {state}")
        if status.state == types_pb2.TASK_STATE_FINISHED:
            self.acknowledged.add(status.task_id)
        elif status.state in ENDED:
            self.failure = f"{status.task_id} is {state}: {status.message}"
        if len(self.acknowledged) == 5 or self.failure:
            self.call("Teardown", v1.TeardownRequest())

    # Numbered calls.

    def call(self, method, request):
        self.number += 1
        self.open[self.number] = (method, request)
        self.ask(self.number)

    def ask(self, number):
        method, request = self.open[number]
        request.call.CopyFrom(v1.CallId(
            framework_id=self.framework_id, session=self.session,
            number=number, lowest_unanswered=min(self.open),
        ))
        try:
            reply = getattr(self.stub, method)(request, timeout=10)
        except grpc.RpcError as error:
            if error.code() in UNKNOWN_OUTCOME:
                raise Lost(f"was subscribed; {method} {number} has no answer: {error.details()}") from None
            del self.open[number]
            self.refused(method, request, reason(error), error.details())
            return
        del self.open[number]
        if method == "Teardown":
            self.gone = True
        else:
            for refused in reply.refused:
                launch = request.operations[refused.operation].launch
                self.launch_later(launch.tasks[refused.task : refused.task + 1], refused.message)

    def ended(self, code, message):
        """The stream is refused or ends, as after a Teardown whose answer got lost."""
        if code not in REMOVED or not any(method == "Teardown" for method, _ in self.open.values()):
            raise Refused(code, message)
        self.gone = True

    def refused(self, method, request, code, message):
        if method == "Teardown" and code in REMOVED:
            self.gone = True  # its first answer got lost
        elif method == "Accept" and code.startswith("offer-"):
            self.launch_later(request.operations[0].launch.tasks, message)
        else:
            raise Refused(code, message)

    def launch_later(self, tasks, why):
        tasks = [task.task_id for task in tasks]
        log(f"{' '.join(tasks)} with the next offer: {why}")
        self.to_launch = tasks + self.to_launch


class Watch:
    """Ends a stream that is silent for longer than several heartbeats: its master is no more use."""

    def __init__(self, stream, silence):
        self.stream, self.silence = stream, silence
        self.last, self.stopped = time.monotonic(), threading.Event()
        threading.Thread(target=self.look, daemon=True).start()

    def heard(self):
        self.last = time.monotonic()

    def look(self):
        while not self.stopped.wait(0.2):
            if time.monotonic() - self.last > self.silence:
                self.stream.cancel()
                return

    def stop(self):
        self.stopped.set()


class Pulse:
    """Sends heartbeats from a thread, since the handling of an event may take long: three missing ones end the stream."""

    def __init__(self, stub, request, interval):
        self.stub, self.request, self.interval = stub, request, interval
        self.stopped = threading.Event()
        threading.Thread(target=self.beat, daemon=True).start()

    def beat(self):
        while not self.stopped.wait(self.interval):
            try:
                self.stub.Heartbeat(self.request, timeout=self.interval)
            except (grpc.RpcError, ValueError):
                pass  # the next one follows; a ValueError means that the channel is closed

    def stop(self):
        self.stopped.set()


def main():
    arguments = argparse.ArgumentParser(description="Run five tasks and acknowledge each.")
    arguments.add_argument("--masters", default=os.environ.get("ARGOSY_MASTERS", "127.0.0.1:5050"),
                           help="addresses of masters, any order")
    arguments.add_argument("--command", default="echo done", help="what each task runs by /bin/sh -c")
    arguments.add_argument("--pause", type=float, default=0.0, help="seconds between launches")
    variable = os.environ.get
    arguments.add_argument("--tls-ca", default=variable("ARGOSY_TLS_CA"), help="CA certificates of the masters; without them, plaintext")
    arguments.add_argument("--tls-cert", default=variable("ARGOSY_TLS_CERT"), help="certificate of this framework")
    arguments.add_argument("--tls-key", default=variable("ARGOSY_TLS_KEY"), help="key of that certificate")
    arguments.add_argument("--token-file", default=variable("ARGOSY_TOKEN_FILE"),
                           help="file with a bearer token, by which the framework proves its identity instead")
    given = arguments.parse_args()
    tls = credentials(given.tls_ca, given.tls_cert, given.tls_key, given.token_file)
    try:
        failure = FiveTasks(given.masters.split(","), given.command, given.pause, tls).run()
    except Refused as why:
        failure = f"{why} ({why.code})"
    if failure:
        sys.exit(f"five tasks: {failure}")
    log("five tasks finished")


if __name__ == "__main__":
    main()
