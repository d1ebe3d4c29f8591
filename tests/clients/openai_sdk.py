"""The official OpenAI SDK against the outbound sidecar, as an application would use it.

Arguments: the base URL, the model, and the admin URL of the model server, which counts for itself.
Each check is a function; all run, and the exit status tells whether all held.
"""

import json
import sys
import threading
import time
import traceback
import urllib.request

import openai

BASE, MODEL, ENGINE = sys.argv[1:4]
DEADLINE_S = 60


def client(**more):
    return openai.OpenAI(base_url=BASE + "/v1", api_key="none", max_retries=0, timeout=DEADLINE_S, **more)


def ask(words="Tell me of water.", **more):
    more = {"model": MODEL, "max_tokens": 12, "extra_body": {"ignore_eos": True}, **more}
    return client().chat.completions.create(messages=[{"role": "user", "content": words}], **more)


def stats():
    with urllib.request.urlopen(ENGINE + "/admin/stats", timeout=DEADLINE_S) as page:
        return json.load(page)


def stats_when(wish):
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        now = stats()
        if wish(now):
            return now
        time.sleep(0.005)
    raise AssertionError(f"never as wished: {now}")


def chat_whole():
    answer = ask()
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12, answer.usage


def chat_streamed():
    whole = ask(seed=7, temperature=0).choices[0].message.content
    chunks = list(ask(seed=7, temperature=0, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


def chat_streamed_with_usage():
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12, chunks[-1]
    assert all(chunk.usage is None for chunk in chunks[:-1])


def completion():
    answer = client().completions.create(model=MODEL, prompt="Once", max_tokens=5, extra_body={"ignore_eos": True})
    assert answer.choices[0].text and answer.usage.completion_tokens == 5


def embeddings():
    answer = client().embeddings.create(model=MODEL, input=["water", "gate", "water"])
    vectors = [row.embedding for row in answer.data]
    assert [row.index for row in answer.data] == [0, 1, 2]
    assert vectors[0] == vectors[2] != vectors[1] and len(vectors[0]) > 1
    assert answer.usage.prompt_tokens > 0


def models():
    assert [model.id for model in client().models.list()] == [MODEL]


def long_prompt():
    words = "water and gate " * 14_000
    assert len(words) > 200_000
    for stream in (False, True):
        before = stats()["prompt_tokens"]
        answer = ask(words, stream=stream)
        if stream:
            assert list(answer)[-1].choices[0].finish_reason == "length"
        else:
            assert answer.usage.prompt_tokens > 40_000, answer.usage
        assert stats()["prompt_tokens"] > before + 40_000


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": what,
            "parameters": {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]},
        },
    }
    for name, what, argument in [("level", "Level of a lake", "lake"), ("open_gate", "Opens a gate", "gate")]
]


def tools_in_parallel():
    """Two at a time, each with a tool of its own; what comes back belongs to who asked."""
    found, faults = {}, []

    def call(name, stream):
        try:
            choice = {"type": "function", "function": {"name": name}}
            answer = ask(f"Use {name}.", tools=TOOLS, tool_choice=choice, stream=stream, max_tokens=400)
            found[name, stream] = streamed_call(answer) if stream else whole_call(answer)
        except Exception as fault:  # noqa: BLE001: told by the thread that waits
            faults.append(fault)

    for stream in (False, True):
        threads = [threading.Thread(target=call, args=(name, stream)) for name in ("level", "open_gate")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert not faults, faults
    for (name, _), (called, arguments) in found.items():
        assert called == name, found
        assert set(json.loads(arguments)) == {"lake" if name == "level" else "gate"}, found
    assert len(found) == 4


def whole_call(answer):
    assert answer.choices[0].finish_reason == "tool_calls", answer
    [call] = answer.choices[0].message.tool_calls
    return call.function.name, call.function.arguments


def streamed_call(chunks):
    name, arguments, last = None, "", None
    for chunk in chunks:
        for part in chunk.choices[0].delta.tool_calls or []:
            name = name or part.function.name
            arguments += part.function.arguments or ""
        last = chunk.choices[0].finish_reason or last
    assert last == "tool_calls", last
    return name, arguments


def errors_have_their_classes():
    def fault(kind, **more):
        try:
            ask(**more)
        except openai.APIStatusError as error:
            assert type(error) is kind, (type(error), error)
            assert error.body["message"] and error.request_id, (error.body, error.request_id)
            return error
        raise AssertionError(f"no {kind}")

    assert "nobody" in fault(openai.NotFoundError, model="nobody").body["message"]
    fault(openai.BadRequestError, max_tokens=-1)
    fault(openai.BadRequestError, extra_body={"messages": "none"})


def leaving_mid_stream_frees_the_place():
    before = stats()["aborted_requests"]
    stream = ask(stream=True, max_tokens=100_000)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stats_when(lambda now: now["running"] == 1)
    stream.close()
    now = stats_when(lambda now: now["aborted_requests"] == before + 1 and now["running"] == 0)
    abort = now["aborts"][-1]
    assert abort["phase"] == "decode" and abort["saved_tokens"] > 50_000, abort


def one_client_for_many_requests():
    """As applications do: connections are kept and used again."""
    kept = client()
    for _ in range(20):
        answer = kept.chat.completions.create(
            model=MODEL, max_tokens=2, messages=[{"role": "user", "content": "hi"}], extra_body={"ignore_eos": True}
        )
        assert answer.usage.completion_tokens == 2


CHECKS = [
    chat_whole,
    chat_streamed,
    chat_streamed_with_usage,
    completion,
    embeddings,
    models,
    long_prompt,
    tools_in_parallel,
    errors_have_their_classes,
    leaving_mid_stream_frees_the_place,
    one_client_for_many_requests,
]

failed = 0
for check in CHECKS:
    try:
        check()
        print("ok", check.__name__)
    except Exception:  # noqa: BLE001: every check is told
        failed += 1
        print("FAILED", check.__name__)
        traceback.print_exc(file=sys.stdout)
sys.exit(failed > 0)
