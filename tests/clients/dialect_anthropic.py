"""Errors that the sidecar makes, and answers in Anthropic's words, as the official Anthropic SDK reads them.

Arguments: the sidecar's address, and what is recorded, each as `dialect/name/ending`.
"""

import sys

import anthropic
import checks
import httpx2

ADDRESS, RECORDED = sys.argv[1], sys.argv[2:]
CLIENT = anthropic.Anthropic(
    base_url=f"http://{ADDRESS}", api_key="none", max_retries=0, timeout=checks.DEADLINE_S
)
HI = [{"role": "user", "content": "hi"}]
DIALECT = "anthropic_messages"
KINDS = {
    400: (anthropic.BadRequestError, "invalid_request_error"),
    404: (anthropic.NotFoundError, "not_found_error"),
    429: (anthropic.RateLimitError, "rate_limit_error"),
    500: (anthropic.InternalServerError, "api_error"),
    502: (anthropic.InternalServerError, "api_error"),
    504: (anthropic.InternalServerError, "timeout_error"),
}


def ask(model, **more):
    return CLIENT.messages.create(model=model, max_tokens=16, messages=HI, **more)


def told(error, fault):
    kind, name = KINDS[fault.status]
    assert isinstance(error, kind), (fault, type(error), error)
    assert (error.status_code, error.type) == (fault.status, name), (fault, error.status_code, error.body)
    assert error.error_code == fault.code and fault.says in error.api_message, (fault, error.body)
    assert error.request_id and ("retry-after-ms" in error.response.headers) == (fault.status == 429)


def faults_have_their_classes_and_types():
    for fault in checks.FAULTS:
        for call in [
            lambda: ask(fault.model),
            lambda: list(ask(fault.model, stream=True)),
            lambda: CLIENT.messages.count_tokens(model=fault.model, messages=HI),
        ]:
            told(checks.raised(anthropic.APIError, call), fault)


def what_names_no_model_is_told_in_the_same_words():
    error = checks.raised(anthropic.NotFoundError, lambda: CLIENT.messages.batches.retrieve("b1"))
    assert (error.type, error.error_code) == ("not_found_error", "no_route"), error.body
    # OpenAI's path as well; its words are understood.
    error = checks.raised(anthropic.NotFoundError, lambda: list(CLIENT.models.list()))
    assert error.type == "not_found_error" and error.api_message, error.body


def every_recorded_stream_is_read_to_its_end():
    for name, ending in checks.of(DIALECT, RECORDED):
        kinds, failed = [], False
        try:
            for event in ask(name, stream=True):
                kinds.append(event.type)
        except anthropic.APIStatusError as error:
            failed = True
            assert error.type and error.api_message, (name, error.body)
        assert failed == (ending == "Error"), (name, ending, kinds)
        # Data without a name is typed, but the SDK passes over it.
        assert failed or name == "44-anthropic-redacted" or kinds[-1] == "message_stop", (name, kinds)


def the_message_is_put_together():
    with CLIENT.messages.stream(model="41-anthropic-thinking-tool", max_tokens=16, messages=HI) as stream:
        message = stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "tool_use"], message
    assert message.usage.output_tokens == 89 and message.stop_reason == "tool_use"


def a_stream_that_breaks_between_events_ends_with_the_reason():
    error = checks.raised(anthropic.APIStatusError, lambda: list(ask("40-anthropic-text~between", stream=True)))
    assert (error.type, error.error_code) == ("api_error", "upstream_reset") and error.api_message, error.body


def a_stream_that_breaks_inside_an_event_is_no_nonsense():
    """The connection breaks, or the half event is lost on the way and the reason follows."""
    error = checks.raised(Exception, lambda: list(ask("40-anthropic-text~inside", stream=True)))
    assert isinstance(error, (anthropic.APIError, httpx2.RemoteProtocolError)), (type(error), error)


checks.run(
    [
        faults_have_their_classes_and_types,
        what_names_no_model_is_told_in_the_same_words,
        every_recorded_stream_is_read_to_its_end,
        the_message_is_put_together,
        a_stream_that_breaks_between_events_ends_with_the_reason,
        a_stream_that_breaks_inside_an_event_is_no_nonsense,
    ]
)
