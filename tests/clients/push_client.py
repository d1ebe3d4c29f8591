"""An independent client of the push protocol: grpcio, and code that grpc_tools makes from the public .proto files.

Arguments: the .proto directory, a directory for the code, the control plane's gRPC address, its root certificate, its join
token, its admin URL, and the directory of its documents, which the checks change.
Each check is a function; all run in order, and the exit status tells whether all held.
"""

import json
import os
import pathlib
import queue
import sys
import threading
import time
import traceback
import urllib.request

import grpc
import grpc_tools
from grpc_tools import protoc

PROTO, CODE, ADDRESS, ROOT, TOKEN, ADMIN, DOCUMENTS = sys.argv[1:8]
DEADLINE_S = 60


def compile_protos():
    files = sorted(str(path) for path in pathlib.Path(PROTO).rglob("*.proto"))
    include = str(pathlib.Path(grpc_tools.__file__).parent / "_proto")
    words = ["protoc", f"-I{PROTO}", f"-I{include}", f"--python_out={CODE}", f"--grpc_python_out={CODE}"]
    assert protoc.main(words + files) == 0
    sys.path.insert(0, CODE)
    import google

    google.__path__.append(str(pathlib.Path(CODE) / "google"))


compile_protos()

from envoy.config.core.v3 import base_pb2  # noqa: E402
from envoy.service.discovery.v3 import discovery_pb2, discovery_pb2_grpc  # noqa: E402
from google.rpc import status_pb2  # noqa: E402
from penstock.v1 import resources_pb2  # noqa: E402

TYPES = ["Backend", "Endpoint", "Policy", "Route", "Slo"]


def url(kind):
    return "type.googleapis.com/penstock.v1." + kind


def channel():
    root = pathlib.Path(ROOT).read_bytes()
    return grpc.secure_channel(ADDRESS, grpc.ssl_channel_credentials(root), [("grpc.enable_http_proxy", 0)])


class Stream:
    """One stream; what comes is kept until it is asked for."""

    def __init__(self, node, token=None):
        self.requests, self.responses = queue.Queue(), queue.Queue()
        self.node, self.channel = node, channel()
        bearer = pathlib.Path(TOKEN).read_text().strip() if token is None else token
        stub = discovery_pb2_grpc.AggregatedDiscoveryServiceStub(self.channel)
        self.call = stub.DeltaAggregatedResources(
            iter(self.requests.get, None), metadata=[("authorization", "Bearer " + bearer)]
        )
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for response in self.call:
                self.responses.put(response)
        except grpc.RpcError as error:
            self.responses.put(error)

    def send(self, type_url, **more):
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, **more)
        if self.node:
            request.node.CopyFrom(base_pb2.Node(id=self.node, user_agent_name="push_client.py"))
            self.node = None
        self.requests.put(request)

    def want(self, *kinds, names=("*",), held=None):
        for kind in kinds:
            versions = (held or {}).get(kind, {})
            self.send(url(kind), resource_names_subscribe=names, initial_resource_versions=versions)

    def next(self):
        response = self.responses.get(timeout=DEADLINE_S)
        if isinstance(response, grpc.RpcError):
            raise response
        return response

    def ack(self, response):
        self.send(response.type_url, response_nonce=response.nonce)

    def nack(self, response, message, names=()):
        error = status_pb2.Status(code=3, message=message)
        if names:
            rejected = [resources_pb2.RejectedResource(name=name, problem=message) for name in names]
            error.details.add().Pack(resources_pb2.Rejection(resources=rejected))
        self.send(response.type_url, response_nonce=response.nonce, error_detail=error)

    def nothing_else(self):
        """Asks for what nobody has: its answer is the very next thing to come."""
        self.send("type.example/Nothing", resource_names_subscribe=["fence"])
        response = self.next()
        assert list(response.removed_resources) == ["fence"], f"something else came: {response}"

    def accept(self, number):
        """Takes and acknowledges as many responses; what each said, in order."""
        said = []
        for _ in range(number):
            response = self.next()
            self.ack(response)
            said.append((response.type_url.rpartition(".")[2], told(response)))
        return said

    def close(self):
        self.call.cancel()
        self.channel.close()


def told(response):
    """Names, short and with a sign before those that are gone."""
    assert response.nonce
    names = [short(resource.name) for resource in response.resources]
    assert len(set(names)) == len(names), f"a name twice: {names}"
    return sorted(names) + sorted("-" + short(name) for name in response.removed_resources)


def short(name):
    cluster, namespace, rest = name.split("/", 2)
    assert (cluster, namespace) == ("penstock", "default"), name
    return rest


def backend(name, *addresses):
    endpoints = [{"address": address, "port": 8000} for address in addresses]
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "Backend",
        "metadata": {"name": name},
        "spec": {"endpoints": endpoints},
    }


def route(name, *backends):
    def reference(name):
        return {"group": "penstock.dev", "kind": "Backend", "name": name}

    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name},
        "spec": {
            "parentRefs": [reference(name)],
            "rules": [{"backendRefs": [reference(backend) for backend in backends]}],
        },
    }


def about(kind, backend, **spec):
    """A document of ours about a Backend."""
    target = {"group": "penstock.dev", "kind": "Backend", "name": backend}
    return {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": backend},
        "spec": {"targetRefs": [target], **spec},
    }


def publish(*documents):
    """Gives these documents to the control plane and waits until they are in force."""
    text = "".join(f"---\n{json.dumps(document)}\n" for document in documents) or "# none\n"
    request = urllib.request.Request(ADMIN + "/api/v1/diff", text.encode(), {"content-type": "application/yaml"})
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        diff = json.load(answer)
    assert diff["valid"], diff
    beside = pathlib.Path(CODE) / "beside"
    beside.write_text(text)
    os.replace(beside, pathlib.Path(DOCUMENTS) / "mesh.yaml")
    status_when(lambda status: status["config"]["version"] == diff["to"])


def status_when(wish):
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        with urllib.request.urlopen(ADMIN + "/api/v1/status", timeout=DEADLINE_S) as page:
            status = json.load(page)
        if wish(status):
            return status
        time.sleep(0.005)
    raise AssertionError(f"never as wished: {json.dumps(status, indent=1)}")


def row(status, node):
    return next((row for row in status["sidecars"] if row["node"] == node), None)


def who_is_not_known_gets_nothing():
    for token in ("", "wrong", "x" * 43):
        stream = Stream("stranger", token)
        stream.want("Backend")
        try:
            stream.next()
            raise AssertionError("let in")
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED, error
        stream.close()
    status_when(lambda status: row(status, "stranger") is None)


def types_come_in_order_and_each_waits_for_the_answer_before():
    policy = about("BackendPolicy", "chat", loadBalancer={"policy": "RoundRobin"})
    objective = {"name": "served", "indicator": "Availability", "target": "99"}
    slo = about("LatencySLO", "chat", window="30d", objectives=[objective])
    publish(slo, policy, route("chat", "chat"), backend("chat", "10.0.0.1", "10.0.0.2"))
    stream = Stream("order")
    stream.want(*TYPES)
    come = []
    for _ in TYPES:
        response = stream.next()
        come.append((response.type_url, told(response)))
        stream.nothing_else()
        stream.ack(response)
    assert come == [
        (url("Backend"), ["chat"]),
        (url("Endpoint"), ["chat/10.0.0.1:8000", "chat/10.0.0.2:8000"]),
        (url("Policy"), ["chat"]),
        (url("Route"), ["chat"]),
        (url("Slo"), ["chat"]),
    ], come
    stream.nothing_else()
    status_when(lambda status: row(status, "order")["in_sync"])
    # A new backend with a route to it: the route last. Then most goes: what refers to others first.
    both = [backend("chat", "10.0.0.1", "10.0.0.2"), backend("next", "10.0.0.9")]
    publish(slo, policy, route("chat", "chat", "next"), *both)
    assert stream.accept(3) == [("Backend", ["next"]), ("Endpoint", ["next/10.0.0.9:8000"]), ("Route", ["chat"])]
    publish(backend("chat", "10.0.0.1"))
    removed = stream.accept(5)
    assert removed == [
        ("Slo", ["-chat"]),
        ("Route", ["-chat"]),
        ("Policy", ["-chat"]),
        ("Endpoint", ["-chat/10.0.0.2:8000", "-next/10.0.0.9:8000"]),
        ("Backend", ["-next"]),
    ], removed
    stream.nothing_else()
    stream.close()


def what_is_sent_is_what_was_written():
    publish(backend("chat", "10.0.0.1"), route("chat", "chat"))
    stream, seen = Stream("content"), {}
    stream.want(*TYPES)
    for _ in TYPES:
        response = stream.next()
        for resource in response.resources:
            kind = response.type_url.rpartition(".")[2]
            assert resource.resource.type_url == response.type_url and resource.version
            message = getattr(resources_pb2, kind)()
            assert resource.resource.Unpack(message)
            seen[kind] = message
        stream.ack(response)
    assert seen["Backend"].name.name == "chat" and seen["Backend"].protocol == resources_pb2.PROTOCOL_HTTP
    assert (seen["Endpoint"].address, seen["Endpoint"].sidecar) == ("10.0.0.1:8000", "")
    [rule] = seen["Route"].rules
    assert [backend.backend.name for backend in rule.backends] == ["chat"] and len(rule.matches) == 1
    stream.close()


def a_change_that_is_refused_is_shown_and_not_repeated():
    publish(backend("chat", "10.0.0.1"))
    stream = Stream("sulky")
    stream.want("Backend", "Endpoint")
    assert stream.accept(2) == [("Backend", ["chat"]), ("Endpoint", ["chat/10.0.0.1:8000"])]
    publish(backend("chat", "10.0.0.1", "10.0.0.2"))
    response = stream.next()
    assert told(response) == ["chat/10.0.0.2:8000"]
    stream.nack(response, "no memory left", ["penstock/default/chat/10.0.0.2:8000"])
    stream.nothing_else()
    status = status_when(lambda status: row(status, "sulky")["types"]["endpoints"]["error"])
    told_row = row(status, "sulky")
    assert "no memory left" in told_row["types"]["endpoints"]["error"], told_row
    assert told_row["connected"] and not told_row["in_sync"] and told_row["types"]["endpoints"]["held"] == 1
    # What others have to do with it goes on, what was refused stays refused until it changes.
    publish(backend("chat", "10.0.0.1", "10.0.0.2", "10.0.0.3"))
    assert stream.accept(1) == [("Endpoint", ["chat/10.0.0.3:8000"])]
    stream.nothing_else()
    publish(backend("chat", "10.0.0.1", "10.0.0.3"))
    # It was never held, but the client may not know that: gone or unsaid are both right.
    status_when(lambda status: row(status, "sulky")["in_sync"])
    stream.close()


def a_nack_without_names_refuses_the_whole_response():
    publish(backend("chat", "10.0.0.1"))
    stream = Stream("sulkier")
    stream.want("Backend", "Endpoint")
    first = stream.next()
    stream.nack(first, "all of it is bad")
    # It counts as an answer: the next type comes.
    response = stream.next()
    assert (response.type_url, told(response)) == (url("Endpoint"), ["chat/10.0.0.1:8000"])
    stream.ack(response)
    stream.nothing_else()
    assert "all of it is bad" in row(status_when(lambda s: row(s, "sulkier")), "sulkier")["types"]["backends"]["error"]
    changed = backend("chat", "10.0.0.1")
    changed["spec"]["hostnames"] = ["chat.example"]
    publish(changed)
    assert stream.accept(1) == [("Backend", ["chat"])]
    status_when(lambda status: row(status, "sulkier")["in_sync"])
    stream.close()


def a_stale_answer_means_nothing():
    publish(backend("chat", "10.0.0.1"))
    stream = Stream("stale")
    stream.want("Backend")
    response = stream.next()
    stream.send(url("Backend"), response_nonce="not-that-one")
    stream.send(url("Backend"), response_nonce="nor-that", error_detail=status_pb2.Status(code=3, message="old"))
    stream.nothing_else()
    # A subscription counts, whatever the nonce.
    stream.send(url("Endpoint"), response_nonce="stale", resource_names_subscribe=["*"])
    stream.ack(response)
    assert stream.accept(1) == [("Endpoint", ["chat/10.0.0.1:8000"])]
    status = status_when(lambda status: row(status, "stale")["in_sync"])
    assert row(status, "stale")["types"]["backends"]["error"] is None
    stream.close()


def who_comes_back_gets_what_differs_alone():
    publish(backend("chat", "10.0.0.1", "10.0.0.2"), backend("embed", "10.0.0.3"))
    stream, held = Stream("back"), {}
    stream.want("Backend", "Endpoint")
    for _ in range(2):
        response = stream.next()
        versions = {resource.name: resource.version for resource in response.resources}
        held[response.type_url.rpartition(".")[2]] = versions
        stream.ack(response)
    status_when(lambda status: row(status, "back")["in_sync"])
    stream.close()
    status_when(lambda status: not row(status, "back")["connected"])
    # Nothing has changed: each type is answered, with nothing in it.
    stream = Stream("back")
    stream.want("Backend", "Endpoint", held=held)
    assert stream.accept(2) == [("Backend", []), ("Endpoint", [])]
    status_when(lambda status: row(status, "back")["in_sync"])
    stream.close()
    # One endpoint is new, a backend with its endpoint has gone meanwhile.
    publish(backend("chat", "10.0.0.1", "10.0.0.2", "10.0.0.4"))
    stream = Stream("back")
    stream.want("Backend", "Endpoint", held=held)
    said = []
    while not row(status_when(lambda status: True), "back")["in_sync"] or not stream.responses.empty():
        if not stream.responses.empty():
            said += stream.accept(1)
        time.sleep(0.005)
    news = [(kind, name) for kind, names in said for name in names]
    assert news == [
        ("Endpoint", "chat/10.0.0.4:8000"),
        ("Endpoint", "-embed/10.0.0.3:8000"),
        ("Backend", "-embed"),
    ], said
    stream.nothing_else()
    stream.close()


def names_can_be_asked_for_one_by_one():
    publish(backend("chat", "10.0.0.1"), backend("embed", "10.0.0.2"))
    stream = Stream("picky")
    stream.want("Backend", names=["penstock/default/embed", "penstock/default/later"])
    response = stream.next()
    assert told(response) == ["embed", "-later"], response
    stream.ack(response)
    stream.nothing_else()
    publish(backend("chat", "10.0.0.9"), backend("embed", "10.0.0.2"), backend("later", "10.0.0.3"))
    assert stream.accept(1) == [("Backend", ["later"])]
    # Sent again although it is held: who asks has a reason.
    stream.want("Backend", names=["penstock/default/embed"])
    assert stream.accept(1) == [("Backend", ["embed"])]
    stream.send(url("Backend"), resource_names_unsubscribe=["penstock/default/embed", "penstock/default/later"])
    stream.nothing_else()
    publish(backend("chat", "10.0.0.9"))
    stream.nothing_else()
    stream.close()


def the_other_form_of_the_protocol_is_refused():
    path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
    with channel() as open_channel:
        try:
            list(open_channel.stream_stream(path)(iter([b""]), timeout=DEADLINE_S))
            raise AssertionError("served")
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED, error


CHECKS = [
    who_is_not_known_gets_nothing,
    types_come_in_order_and_each_waits_for_the_answer_before,
    what_is_sent_is_what_was_written,
    a_change_that_is_refused_is_shown_and_not_repeated,
    a_nack_without_names_refuses_the_whole_response,
    a_stale_answer_means_nothing,
    who_comes_back_gets_what_differs_alone,
    names_can_be_asked_for_one_by_one,
    the_other_form_of_the_protocol_is_refused,
]

failed = 0
for check in CHECKS:
    try:
        check()
        print("ok", check.__name__, flush=True)
    except Exception:  # noqa: BLE001: every check is told
        failed += 1
        print("FAILED", check.__name__)
        traceback.print_exc(file=sys.stdout)
sys.exit(failed > 0)
