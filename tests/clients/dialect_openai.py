"""Errors that the sidecar makes, and answers of every engine, as the official OpenAI SDK reads them.

Arguments: the sidecar's address, and what is recorded, each as `dialect/name/ending`.
"""

import sys

import checks
import openai

ADDRESS, RECORDED = sys.argv[1], sys.argv[2:]
CLIENT = openai.OpenAI(
    base_url=f"http://{ADDRESS}/v1", api_key="none", max_retries=0, timeout=checks.DEADLINE_S
)
HI = [{"role": "user", "content": "hi"}]
WAV = ("a.wav", b"RIFF\0\0\0\0WAVE", "audio/wav")
ASK = {
    "openai_chat": lambda model, **more: CLIENT.chat.completions.create(model=model, messages=HI, **more),
    "openai_completions": lambda model, **more: CLIENT.completions.create(model=model, prompt="hi", **more),
    "openai_responses": lambda model, **more: CLIENT.responses.create(model=model, input="hi", **more),
    "openai_audio": lambda model, **more: CLIENT.audio.transcriptions.create(model=model, file=WAV, **more),
    "openai_embeddings": lambda model: CLIENT.embeddings.create(model=model, input="hi"),
}
STREAMED = [dialect for dialect in ASK if dialect != "openai_embeddings"]
KINDS = {
    400: openai.BadRequestError,
    404: openai.NotFoundError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    504: openai.InternalServerError,
}


def told(error, fault, kind=openai.APIStatusError):
    assert isinstance(error, kind), (fault, type(error), error)
    assert (error.status_code, error.code) == (fault.status, fault.code), (fault, error.status_code, error.body)
    assert set(error.body) == {"message", "type", "param", "code"}, error.body
    assert fault.says in error.body["message"] and error.type and error.request_id, (fault, error.body)
    assert ("retry-after-ms" in error.response.headers) == (fault.status == 429), error.response.headers


def faults_have_their_classes_and_codes():
    for ask in ASK.values():
        for fault in checks.FAULTS:
            told(checks.raised(openai.APIError, lambda: ask(fault.model)), fault, KINDS[fault.status])
    for dialect in STREAMED:
        for fault in checks.FAULTS:
            error = checks.raised(openai.APIError, lambda: list(ASK[dialect](fault.model, stream=True)))
            told(error, fault, KINDS[fault.status])


def what_names_no_model_is_told_in_the_same_words():
    fault = checks.Fault("", 404, "no_route", "")
    for ask in [
        lambda: list(CLIENT.models.list()),
        lambda: CLIENT.models.retrieve("penstock-small"),
        lambda: CLIENT.responses.retrieve("resp_1"),
        lambda: CLIENT.files.list(),
    ]:
        told(checks.raised(openai.APIError, ask), fault, openai.NotFoundError)


def every_recorded_stream_is_read_to_its_end():
    for dialect in STREAMED:
        for name, ending in checks.of(dialect, RECORDED):
            events, failed = [], False
            try:
                for event in ASK[dialect](name, stream=True):
                    events.append(event)
            except openai.APIError as error:
                failed = True
                assert error.message, name
            types = {getattr(event, "type", None) for event in events}
            failed = failed or bool(types & {"error", "response.failed"})
            assert failed == (ending == "Error"), (name, ending, events)


def a_stream_that_breaks_between_events_ends_with_the_reason():
    for dialect in STREAMED:
        name = checks.of(dialect, RECORDED)[0][0]
        error = checks.raised(openai.APIError, lambda: list(ASK[dialect](name + "~between", stream=True)))
        assert error.code == "upstream_reset" and error.message == error.body["message"], (dialect, error.body)


def a_stream_that_is_asked_for_again_ends_with_the_reason_too():
    again = CLIENT.responses.retrieve("30-responses-text~between", stream=True)
    error = checks.raised(openai.APIError, lambda: list(again))
    assert error.code == "upstream_reset", error.body


def a_stream_that_breaks_inside_an_event_is_no_nonsense():
    """The connection breaks, or the half event is lost on the way and the reason follows."""
    for dialect in STREAMED:
        name = checks.of(dialect, RECORDED)[0][0]
        error = checks.raised(openai.APIError, lambda: list(ASK[dialect](name + "~inside", stream=True)))
        assert isinstance(error, openai.APIConnectionError) or error.code == "upstream_reset", error


checks.run(
    [
        faults_have_their_classes_and_codes,
        what_names_no_model_is_told_in_the_same_words,
        every_recorded_stream_is_read_to_its_end,
        a_stream_that_breaks_between_events_ends_with_the_reason,
        a_stream_that_is_asked_for_again_ends_with_the_reason_too,
        a_stream_that_breaks_inside_an_event_is_no_nonsense,
    ]
)
