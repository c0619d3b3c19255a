"""Calls huggingface_hub for `keepstep push`: one request as JSON on standard input, one answer as JSON."""

import hashlib
import json
import os
import pathlib
import re
import sys

# The answer alone goes to standard output.
ANSWER = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main():
    request = json.load(sys.stdin)
    try:
        import huggingface_hub
    except ImportError as error:
        kind = "missing" if error.name == "huggingface_hub" else "other"
        return {"error": {"kind": kind, "text": f"{error}"}}
    try:
        if huggingface_hub.get_token() is None:
            return {"error": {"kind": "credentials"}}
        return push(huggingface_hub, request)
    except Exception as error:  # whatever it is, it becomes a sentence
        return {"error": explain(error)}


def push(huggingface_hub, request):
    """Makes the repository if it does not exist, and one commit with every file of the folder."""
    api = huggingface_hub.HfApi(library_name="keepstep")
    repository, folder = request["repository"], pathlib.Path(request["folder"])
    api.create_repo(repository, private=True, exist_ok=True, repo_type="model")
    # `upload_folder` may split its work into several commits.
    operations = [
        huggingface_hub.CommitOperationAdd(path.name, str(path)) for path in sorted(folder.iterdir())
    ]
    commit = api.create_commit(repository, operations, commit_message=request["message"], repo_type="model")
    answer = {"commit": commit.oid, "url": commit.commit_url}
    try:
        answer["wrong"] = compare(api, repository, commit.oid, folder)
    except Exception as error:
        answer["unchecked"] = explain(error)["text"]
    return answer


def compare(api, repository, revision, folder):
    """The names of files that the repository does not have as they were sent: by size, and by SHA-256 where it has one."""
    there = {entry.path: entry for entry in api.list_repo_tree(repository, revision=revision, repo_type="model")}
    wrong = []
    for path in sorted(folder.iterdir()):
        entry = there.get(path.name)
        if entry is None or entry.size != path.stat().st_size:
            wrong.append(path.name)
        elif entry.lfs is not None:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != entry.lfs.sha256:
                    wrong.append(path.name)
    return wrong


def explain(error):
    """An error as kind, status and text, without secrets."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = scrub(" ".join(lines)) or type(error).__name__
    if status is not None:
        return {"kind": "http", "status": status, "text": text}
    module = type(error).__module__.split(".")[0]
    if isinstance(error, OSError) or module in ("requests", "httpx", "httpx2", "urllib3"):
        return {"kind": "network", "text": text}
    return {"kind": "other", "text": text}


def scrub(text):
    """Takes out what a URL carries behind its path, and tokens."""
    text = re.sub(r"\?[^\s'\")]+", "?...", text)
    return re.sub(r"hf_[A-Za-z0-9]{8,}", "hf_...", text)[:600]


json.dump(main(), ANSWER)
ANSWER.close()
