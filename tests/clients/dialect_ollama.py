"""Errors that the sidecar makes, and answers in Ollama's words, as the official Ollama client reads them.

Arguments: the sidecar's address, and what is recorded, each as `dialect/name/ending`.
"""

import sys

import checks
import httpx
import ollama

ADDRESS, RECORDED = sys.argv[1], sys.argv[2:]
CLIENT = ollama.Client(host=f"http://{ADDRESS}", timeout=checks.DEADLINE_S)
HI = [{"role": "user", "content": "hi"}]
ASK = {
    "ollama_chat": lambda model, **more: CLIENT.chat(model=model, messages=HI, **more),
    "ollama_generate": lambda model, **more: CLIENT.generate(model=model, prompt="hi", **more),
    "ollama_embed": lambda model: CLIENT.embed(model=model, input="hi"),
}
STREAMED = ["ollama_chat", "ollama_generate"]


def told(error, fault):
    assert error.status_code == fault.status, (fault, error)
    # The text of an object, not an object as text.
    assert fault.says in error.error and not error.error.startswith("{"), (fault, error.error)


def faults_have_their_status_and_text():
    for fault in checks.FAULTS:
        for ask in ASK.values():
            told(checks.raised(ollama.ResponseError, lambda: ask(fault.model)), fault)
        for dialect in STREAMED:
            told(checks.raised(ollama.ResponseError, lambda: list(ASK[dialect](fault.model, stream=True))), fault)


def what_names_no_model_is_told_in_the_same_words():
    fault = checks.Fault("", 404, "no_route", "")
    for ask in [CLIENT.list, CLIENT.ps, lambda: CLIENT.show("llama3.2"), lambda: CLIENT.delete("llama3.2")]:
        told(checks.raised(ollama.ResponseError, ask), fault)


def every_recorded_stream_is_read_to_its_end():
    for dialect in STREAMED:
        for name, ending in checks.of(dialect, RECORDED):
            lines, failed = [], False
            try:
                for line in ASK[dialect](name, stream=True):
                    lines.append(line)
            except ollama.ResponseError as error:
                failed = True
                assert error.error, name
            assert failed == (ending == "Error"), (name, ending, lines)
            assert failed or lines[-1].done, (name, lines)


def a_stream_that_breaks_between_lines_ends_with_the_reason():
    for dialect, name in [("ollama_chat", "50-ollama-chat"), ("ollama_generate", "52-ollama-generate")]:
        error = checks.raised(ollama.ResponseError, lambda: list(ASK[dialect](name + "~between", stream=True)))
        assert error.error and not error.error.startswith("{"), error.error


def a_stream_that_breaks_inside_a_line_is_no_nonsense():
    """The connection breaks, or the half line is lost on the way and the reason follows."""
    error = checks.raised(Exception, lambda: list(ASK["ollama_chat"]("50-ollama-chat~inside", stream=True)))
    assert isinstance(error, (ollama.ResponseError, httpx.RemoteProtocolError)), (type(error), error)


checks.run(
    [
        faults_have_their_status_and_text,
        what_names_no_model_is_told_in_the_same_words,
        every_recorded_stream_is_read_to_its_end,
        a_stream_that_breaks_between_lines_ends_with_the_reason,
        a_stream_that_breaks_inside_a_line_is_no_nonsense,
    ]
)
