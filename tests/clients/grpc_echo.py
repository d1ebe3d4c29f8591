"""A gRPC application and its client, by grpcio, with plain bytes as messages.

    grpc_echo.py serve                 serves until it is stopped; the first line of output says where
    grpc_echo.py call TARGET COUNTS    runs every check; COUNTS is the address of the application itself
"""

import json
import sys
import threading
import time
import traceback
from concurrent import futures

import grpc

SERVICE = "penstock.test.Echo"
INFERENCE = "inference.GRPCInferenceService"
DEADLINE_S = 60
MESSAGE_BYTES_MAX = 8 << 20
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
]


class Echo:
    """What the application does, and how many calls of its endless method are open."""

    def __init__(self):
        self.lock, self.open, self.left = threading.Lock(), 0, 0

    def unary(self, request, context):
        sent = dict(context.invocation_metadata())
        context.send_initial_metadata([("said-first", sent.get("said", ""))])
        context.set_trailing_metadata([("said-last", sent.get("said", "")), ("raw-bin", b"\x00\xff")])
        return request

    def stream(self, request, context):
        for number in range(int(request)):
            yield b"%d" % number
        context.set_trailing_metadata([("count", request.decode())])

    def both_ways(self, requests, context):
        for request in requests:
            yield request

    def collect(self, requests, context):
        return b"%d" % sum(len(request) for request in requests)

    def refuse(self, request, context):
        context.set_trailing_metadata([("why", "because")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now, é")

    def refuse_late(self, request, context):
        yield b"one"
        context.abort(grpc.StatusCode.DATA_LOSS, "gone")

    def endless(self, request, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        with self.lock:
            self.open += 1
        yield b"begun"
        ended.wait(DEADLINE_S)
        with self.lock:
            self.open, self.left = self.open - 1, self.left + 1

    def infer(self, request, context):
        if request == b"fail":
            context.abort(grpc.StatusCode.INTERNAL, "no such tensor")
        return request

    def counts(self, request, context):
        with self.lock:
            return json.dumps({"open": self.open, "left": self.left}).encode()


KINDS = {
    "Unary": (grpc.unary_unary_rpc_method_handler, "unary"),
    "Stream": (grpc.unary_stream_rpc_method_handler, "stream"),
    "BothWays": (grpc.stream_stream_rpc_method_handler, "both_ways"),
    "Collect": (grpc.stream_unary_rpc_method_handler, "collect"),
    "Refuse": (grpc.unary_unary_rpc_method_handler, "refuse"),
    "RefuseLate": (grpc.unary_stream_rpc_method_handler, "refuse_late"),
    "Endless": (grpc.unary_stream_rpc_method_handler, "endless"),
    "Counts": (grpc.unary_unary_rpc_method_handler, "counts"),
}


def serve():
    echo = Echo()
    server = grpc.server(futures.ThreadPoolExecutor(16), options=OPTIONS)
    methods = {name: kind(getattr(echo, method)) for name, (kind, method) in KINDS.items()}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    infer = {"ModelInfer": grpc.unary_unary_rpc_method_handler(echo.infer)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(INFERENCE, infer)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"listening": {"grpc": f"127.0.0.1:{port}"}}), flush=True)
    server.wait_for_termination()


def path(method):
    return f"/{SERVICE}/{method}"


def unary_with_metadata_first_and_last(channel, counts):
    answer, call = channel.unary_unary(path("Unary")).with_call(
        b"hello", metadata=[("said", "hi"), ("x-request-id", "grpc-unary")], timeout=DEADLINE_S
    )
    assert answer == b"hello" and call.code() is grpc.StatusCode.OK
    assert dict(call.initial_metadata())["said-first"] == "hi"
    trailing = dict(call.trailing_metadata())
    assert trailing["said-last"] == "hi" and trailing["raw-bin"] == b"\x00\xff", trailing


def server_streaming(channel, counts):
    for number in (0, 1, 1000):
        call = channel.unary_stream(path("Stream"))(b"%d" % number, timeout=DEADLINE_S)
        assert list(call) == [b"%d" % at for at in range(number)]
        assert dict(call.trailing_metadata())["count"] == str(number)
        assert call.code() is grpc.StatusCode.OK


def each_message_is_answered_before_the_next_is_sent(channel, counts):
    answered = threading.Semaphore(1)

    def questions():
        for number in range(20):
            assert answered.acquire(timeout=DEADLINE_S)
            yield b"%d" % number

    answers = []
    for answer in channel.stream_stream(path("BothWays"))(questions(), timeout=DEADLINE_S):
        answers.append(answer)
        answered.release()
    assert answers == [b"%d" % number for number in range(20)]


def large_messages_both_ways(channel, counts):
    message = bytes(range(256)) * 4096
    assert len(message) == 1 << 20
    assert channel.unary_unary(path("Unary"))(message, timeout=DEADLINE_S) == message
    total = channel.stream_unary(path("Collect"))(iter([message] * 4), timeout=DEADLINE_S)
    assert int(total) == 4 << 20


def an_error_without_an_answer(channel, counts):
    try:
        channel.unary_unary(path("Refuse"))(b"", timeout=DEADLINE_S, metadata=[("x-request-id", "grpc-refused")])
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "not now, é", error.details()
        assert dict(error.trailing_metadata())["why"] == "because"
        return
    raise AssertionError("no error")


def an_error_after_part_of_an_answer(channel, counts):
    call, came = channel.unary_stream(path("RefuseLate"))(b"", timeout=DEADLINE_S), []
    try:
        for message in call:
            came.append(message)
    except grpc.RpcError:
        assert came == [b"one"] and call.code() is grpc.StatusCode.DATA_LOSS, (came, call.code())
        assert call.details() == "gone"
        return
    raise AssertionError("no error")


def a_method_that_is_not_there(channel, counts):
    try:
        channel.unary_unary(path("Nothing"))(b"", timeout=DEADLINE_S)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED, error
        return
    raise AssertionError("no error")


def open_and_left(counts):
    return json.loads(counts.unary_unary(path("Counts"))(b"", timeout=DEADLINE_S))


def counted(counts, wish):
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        now = open_and_left(counts)
        if wish(now):
            return
        time.sleep(0.005)
    raise AssertionError(f"never as wished: {now}")


def the_application_hears_of_a_call_that_is_cancelled(channel, counts):
    before = open_and_left(counts)["left"]
    call = channel.unary_stream(path("Endless"))(b"", timeout=DEADLINE_S)
    assert next(call) == b"begun"
    counted(counts, lambda now: now["open"] == 1)
    call.cancel()
    counted(counts, lambda now: now == {"open": 0, "left": before + 1})


def a_deadline_ends_a_call_at_both_ends(channel, counts):
    before = open_and_left(counts)["left"]
    call = channel.unary_stream(path("Endless"))(b"", timeout=0.5)
    try:
        list(call)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error
        counted(counts, lambda now: now == {"open": 0, "left": before + 1})
        return
    raise AssertionError("no error")


def many_calls_share_a_connection(channel, counts):
    calls = [channel.unary_stream(path("Stream"))(b"50", timeout=DEADLINE_S) for _ in range(30)]
    assert all(len(list(call)) == 50 for call in calls)


CHECKS = [
    unary_with_metadata_first_and_last,
    server_streaming,
    each_message_is_answered_before_the_next_is_sent,
    large_messages_both_ways,
    an_error_without_an_answer,
    an_error_after_part_of_an_answer,
    a_method_that_is_not_there,
    the_application_hears_of_a_call_that_is_cancelled,
    a_deadline_ends_a_call_at_both_ends,
    many_calls_share_a_connection,
]


def call(target, counts):
    failed = 0
    # The authority names the backend; the connection goes to the sidecar.
    through = grpc.insecure_channel(target, options=[*OPTIONS, ("grpc.default_authority", "echo")])
    beside = grpc.insecure_channel(counts, options=OPTIONS)
    for check in CHECKS:
        try:
            check(through, beside)
            print("ok", check.__name__)
        except Exception:  # noqa: BLE001: every check is told
            failed += 1
            print("FAILED", check.__name__)
            traceback.print_exc(file=sys.stdout)
    sys.exit(failed > 0)


if sys.argv[1] == "serve":
    serve()
else:
    call(*sys.argv[2:4])
