"""What the scripts of the dialects have in common: the faults that the mesh is made to answer with, and how checks are run.

A model names its fault. What is said of it, by whatever client, must be what the sidecar said.
"""

import collections
import sys
import traceback

DEADLINE_S = 60

Fault = collections.namedtuple("Fault", "model status code says")

FAULTS = [
    Fault("nobody", 404, "no_route", "no rule"),
    Fault("m" * 300, 400, "bad_request", "256"),
    Fault("full", 429, "overloaded", "full"),
    Fault("weightless", 500, "invalid_backend", "weight"),
    Fault("gone", 502, "connect", "refused"),
    Fault("silent", 504, "deadline", "timeouts.request"),
]


def of(dialect, names):
    """Recorded answers of one dialect, given as `dialect/name/ending`; their names and endings."""
    found = [name.split("/")[1:] for name in names if name.startswith(dialect + "/")]
    assert found, f"nothing recorded of {dialect}"
    return found


def raised(kind, ask):
    try:
        answer = ask()
    except kind as error:
        return error
    raise AssertionError(f"no {kind}: {answer}")


def run(checks):
    failed = 0
    for check in checks:
        try:
            check()
            print("ok", check.__name__, flush=True)
        except Exception:  # noqa: BLE001: every check is told
            failed += 1
            print("FAILED", check.__name__)
            traceback.print_exc(file=sys.stdout)
    sys.exit(failed > 0)
