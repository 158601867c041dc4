#!/usr/bin/env python3
"""A first call: the address of the leader, and the form of refusals. Usage: first_call.py MASTER"""

import os
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from argosy.v1 import operator_pb2, operator_pb2_grpc


def explain(error):
    """The machine-readable part of a refusal: a code, or the field that is wrong."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            return f"{error.code().name}, reason {info.reason}: {error.details()}"
        if detail.Unpack(request):
            return f"{error.code().name}, field {request.field_violations[0].field}"
    return f"{error.code().name}: {error.details()}"


def connect(master):
    """A channel with TLS, and a token, by the files that the environment names, or without."""
    names = ("ARGOSY_TLS_CA", "ARGOSY_TLS_KEY", "ARGOSY_TLS_CERT", "ARGOSY_TOKEN_FILE")
    paths = [os.environ.get(name) for name in names]
    if not paths[0]:
        return grpc.insecure_channel(master)
    *files, token = [path and open(path, "rb").read() for path in paths]
    credentials = grpc.ssl_channel_credentials(*files)
    if token:
        bearer = grpc.access_token_call_credentials(token.decode().strip())
        credentials = grpc.composite_channel_credentials(credentials, bearer)
    return grpc.secure_channel(master, credentials)


with connect(sys.argv[1]) as channel:
    operator = operator_pb2_grpc.OperatorStub(channel)
    cluster, call = operator.GetCluster.with_call(operator_pb2.GetClusterRequest(), timeout=10)
    print(f"cluster {cluster.cluster_id}: {cluster.leader} leads in epoch {cluster.epoch}")
    print("the leader is at", dict(call.initial_metadata())["argosy-leader"])
    for wanted in [{"id": "framework-999"}, {"framework_id": "web", "id": "a"}]:
        ask = operator.GetTask if "framework_id" in wanted else operator.GetFramework
        try:
            ask(operator_pb2.GetRequest(**wanted), timeout=10)
        except grpc.RpcError as error:
            print(explain(error))
