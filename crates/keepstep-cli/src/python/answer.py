"""What every script does: one request as JSON on standard input, one answer as JSON on standard output.

A script follows in the same text. It defines `scrub`, which takes secrets out of a text, and `kind`, which names an error
that is no answer of a server, and ends with `answer`.
"""

import importlib
import json
import os
import sys

# The answer alone goes to standard output. Packages print there as well, some of them requests with their headers.
ANSWER = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def answer(package, work):
    """Answers the request with what `work(package, request)` returns, or with its error."""
    json.dump(respond(package, work), ANSWER)
    ANSWER.close()


def respond(package, work):
    request = json.load(sys.stdin)
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        return {"error": {"kind": "missing" if error.name == package else "other", "text": f"{error}"}}
    try:
        return work(module, request)
    except Exception as error:  # whatever it is, it becomes a sentence
        return {"error": explain(error)}


def explain(error):
    """An error as kind, status and text, without secrets."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = scrub(" ".join(lines)) or type(error).__name__
    if status is not None:
        return {"kind": "http", "status": status, "text": text}
    return {"kind": kind(error), "text": text}


