"""Calls huggingface_hub for `keepstep push`."""

import hashlib
import pathlib
import re


def push(huggingface_hub, request):
    """Makes the repository if it does not exist, and one commit with every file of the folder."""
    if huggingface_hub.get_token() is None:
        return {"error": {"kind": "credentials"}}
    api = huggingface_hub.HfApi(library_name="keepstep")
    repository, folder = request["repository"], pathlib.Path(request["folder"])
    api.create_repo(repository, private=True, exist_ok=True, repo_type="model")
    # `upload_folder` may split its work into several commits.
    operations = [
        huggingface_hub.CommitOperationAdd(path.name, str(path)) for path in sorted(folder.iterdir())
    ]
    commit = api.create_commit(repository, operations, commit_message=request["message"], repo_type="model")
    result = {"commit": commit.oid, "url": commit.commit_url}
    try:
        result["wrong"] = compare(api, repository, commit.oid, folder)
    except Exception as error:
        result["unchecked"] = explain(error)["text"]
    return result


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


def kind(error):
    module = type(error).__module__.split(".")[0]
    is_network = isinstance(error, OSError) or module in ("requests", "httpx", "httpx2", "urllib3")
    return "network" if is_network else "other"


def scrub(text):
    """Takes out what a URL carries behind its path, and tokens."""
    text = re.sub(r"\?[^\s'\")]+", "?...", text)
    return re.sub(r"hf_[A-Za-z0-9]{8,}", "hf_...", text)[:600]


answer("huggingface_hub", push)
