"""Errors that the sidecar makes, and answers, as Triton's official clients read them: HTTP and gRPC.

    dialect_triton.py serve            serves models over gRPC; the first line of output says where
    dialect_triton.py ask ADDRESS      runs every check against the sidecar
"""

import json
import os
import queue
import sys
import threading
from concurrent import futures

import checks
import grpc
import numpy
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

STATUS = {400: 3, 404: 12, 429: 8, 500: 13, 502: 14, 504: 4}


class Models(service_pb2_grpc.GRPCInferenceServiceServicer):
    """`late` stops in the middle of a stream, `dies` takes its server along."""

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelMetadata(self, request, context):
        return service_pb2.ModelMetadataResponse(name=request.name, platform="test")

    def ModelInfer(self, request, context):
        return service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)

    def ModelStreamInfer(self, requests, context):
        for request in requests:
            for number in range(3):
                answer = service_pb2.ModelInferResponse(
                    model_name=request.model_name, id=f"{number}", raw_output_contents=[b"token"]
                )
                yield service_pb2.ModelStreamInferResponse(infer_response=answer)
                if request.model_name == "late":
                    threading.Event().wait(checks.DEADLINE_S)
                if request.model_name == "dies":
                    threading.Event().wait(0.2)
                    os._exit(0)
            if request.model_name == "fails":
                yield service_pb2.ModelStreamInferResponse(error_message="out of memory")


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(16))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Models(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"listening": {"grpc": f"127.0.0.1:{port}"}}), flush=True)
    server.wait_for_termination()


def inputs(kind):
    tensor = kind.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(numpy.zeros((1, 2), numpy.float32))
    return [tensor]


def over_http():
    return triton_http.InferenceServerClient(ADDRESS)


def over_grpc():
    return triton_grpc.InferenceServerClient(ADDRESS)


def http_faults_have_their_status_and_text():
    with over_http() as client:
        for fault in checks.FAULTS:
            for ask in [
                lambda: client.infer(fault.model, inputs(triton_http)),
                lambda: client.get_model_metadata(fault.model),
                lambda: client.get_model_config(fault.model, "7"),
            ]:
                error = checks.raised(InferenceServerException, ask)
                assert error.status() == str(fault.status), (fault, str(error))
                assert fault.says in error.message() and "exception" not in error.message(), (fault, str(error))
            assert not client.is_model_ready(fault.model)


def what_names_no_model_is_told_in_the_same_words():
    with over_http() as client:
        assert not client.is_server_ready()
        for ask in [client.get_server_metadata, client.get_model_repository_index]:
            error = checks.raised(InferenceServerException, ask)
            assert error.status() == "404" and "exception" not in error.message(), error
    with over_grpc() as client:
        error = checks.raised(InferenceServerException, client.get_server_metadata)
        assert error.status() == "StatusCode.UNIMPLEMENTED", error


def told(error, fault):
    code = next(code for code in grpc.StatusCode if code.value[0] == STATUS[fault.status])
    assert error.status() == str(code), (fault, str(error))
    assert fault.says in error.message(), (fault, str(error))


def grpc_faults_have_their_status_and_text():
    with over_grpc() as client:
        for fault in checks.FAULTS:
            for ask in [
                lambda: client.infer(fault.model, inputs(triton_grpc)),
                lambda: client.is_model_ready(fault.model),
                lambda: client.get_model_metadata(fault.model),
            ]:
                told(checks.raised(InferenceServerException, ask), fault)
            [*came, last] = streamed(fault.model)
            assert not came
            told(last, fault)


def streamed(model):
    """What came of one request in a stream, up to the first failure or the third answer and what follows it."""
    came = queue.Queue()
    client = over_grpc()
    client.start_stream(lambda result, error: came.put(error or result))
    client.async_stream_infer(model, inputs(triton_grpc))
    answers = []
    wanted = 4 if model == "fails" else 3
    while len(answers) < wanted and not (answers and isinstance(answers[-1], Exception)):
        answers.append(came.get(timeout=checks.DEADLINE_S))
    client.stop_stream()
    client.close()
    return answers


def answers_come_through():
    with over_grpc() as client:
        assert client.infer("bert", inputs(triton_grpc), request_id="7").get_response().id == "7"
        assert client.is_model_ready("bert")
        assert client.get_model_metadata("bert").name == "bert"
    assert [answer.get_response().id for answer in streamed("bert")] == ["0", "1", "2"]
    *answers, error = streamed("fails")
    assert len(answers) == 3 and error.message() == "out of memory", (answers, error)


def a_stream_that_is_late_or_broken_ends_with_a_status():
    for model, code, says in [("late", "DEADLINE_EXCEEDED", "timeouts.request"), ("dies", "UNAVAILABLE", "")]:
        answer, error = streamed(model)
        assert answer.get_response().model_name == model
        assert error.status() == f"StatusCode.{code}" and says in error.message(), (model, error)
        assert "RST_STREAM" not in error.message(), error


if sys.argv[1] == "serve":
    serve()
else:
    ADDRESS = sys.argv[2]
    checks.run(
        [
            http_faults_have_their_status_and_text,
            what_names_no_model_is_told_in_the_same_words,
            grpc_faults_have_their_status_and_text,
            answers_come_through,
            a_stream_that_is_late_or_broken_ends_with_a_status,
        ]
    )
