"""Calls kagglehub for `keepstep push` and `keepstep pull`."""

import os
import re
import time

# Downloads come from the server. Inside Kaggle and Colab, kagglehub would attach an input instead, and ignore the folder.
os.environ["DISABLE_KAGGLE_CACHE"] = os.environ["DISABLE_COLAB_CACHE"] = "true"
os.environ.setdefault("KAGGLEHUB_VERBOSITY", "error")

MANIFEST = "keepstep.json"


def perform(kagglehub, request):
    from kagglehub.config import get_kaggle_credentials

    if request["action"] == "upload" or request.get("credentials"):
        if get_kaggle_credentials() is None:
            return {"error": {"kind": "credentials"}}
    return ACTIONS[request["action"]](kagglehub, request)


def look(kagglehub, request):
    """What a dataset holds: nothing, files of others, or a bundle of keepstep with this manifest."""
    try:
        path = kagglehub.dataset_download(request["handle"], MANIFEST, output_dir=request["folder"])
    except Exception as error:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        # Kaggle answers 403 for a dataset that does not exist as well: nobody can find out which names are taken.
        if status in (403, 404) and "GetDataset" in str(getattr(response, "url", "")):
            return {"exists": False}
        if status == 404:
            return {"exists": True, "manifest": None}
        raise
    # An upload that broke off may end inside a character.
    with open(path, encoding="utf-8", errors="replace") as file:
        return {"exists": True, "manifest": file.read()}


def upload(kagglehub, request):
    """Makes a new version of a dataset and waits until Kaggle has it."""
    before = version_if_known(request["handle"])
    kagglehub.dataset_upload(request["handle"], request["folder"], version_notes=request["notes"])
    try:
        return wait(request, before)
    except Exception as error:
        # The files are there. What could not be checked is reported.
        return {"checked": False, "reason": explain(error)["text"]}


def version_if_known(handle):
    """The current version of a dataset. 0 if there is none, or this kagglehub has no such function."""
    try:
        return version(handle) or 0
    except Exception:
        return 0


def newest(kagglehub, request):
    """The number of a dataset's newest version."""
    return {"version": version(request["handle"])}


def version(handle):
    """The current version of a dataset, or None."""
    from kagglehub.clients import build_kaggle_client
    from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

    request = ApiGetDatasetRequest()
    request.owner_slug, request.dataset_slug = handle.split("/")[:2]
    try:
        with build_kaggle_client() as client:
            return client.datasets.dataset_api_client.get_dataset(request).current_version_number
    except Exception as error:
        if getattr(getattr(error, "response", None), "status_code", None) in (403, 404):
            return None
        raise


def wait(request, before):
    """Waits until the new version is ready, and lists its files with their sizes."""
    from kagglehub.clients import build_kaggle_client
    from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetStatusRequest

    owner, slug = request["handle"].split("/")
    end, pause = time.monotonic() + request["wait_seconds"], 1.0
    with build_kaggle_client() as client:
        datasets = client.datasets.dataset_api_client
        while True:
            query = ApiGetDatasetStatusRequest()
            query.owner_slug, query.dataset_slug = owner, slug
            status = datasets.get_dataset_status(query).status.name
            if status in ("FAILED", "DELETED"):
                return {"error": {"kind": "other", "text": f"Kaggle could not process the files (status {status})"}}
            made = version(request["handle"]) or 0
            if status == "READY" and made > before:
                break
            if time.monotonic() > end:
                return {"checked": False, "reason": f"Kaggle is still processing the files (status {status})"}
            time.sleep(pause)
            pause = min(pause * 1.5, 15.0)
        return {"checked": True, "version": made, "sizes": sizes(datasets, owner, slug, made)}


def sizes(datasets, owner, slug, number):
    """The names and sizes of the files in one version of a dataset."""
    from kagglesdk.datasets.types.dataset_api_service import ApiListDatasetFilesRequest

    found, token = {}, ""
    while True:
        query = ApiListDatasetFilesRequest()
        query.owner_slug, query.dataset_slug, query.dataset_version_number = owner, slug, number
        query.page_size, query.page_token = 200, token
        page = datasets.list_dataset_files(query)
        found.update({file.name: file.total_bytes for file in page.dataset_files})
        token = page.next_page_token
        if not token:
            return found


def names(kagglehub, request):
    """The names of the files in one version of a dataset."""
    from kagglehub.clients import build_kaggle_client

    owner, slug, *rest = request["handle"].split("/")
    number = int(rest[1]) if rest else version(request["handle"])
    with build_kaggle_client() as client:
        return {"names": sorted(sizes(client.datasets.dataset_api_client, owner, slug, number))}


def download(kagglehub, request):
    """Downloads a dataset or a notebook's output into a folder."""
    call = kagglehub.dataset_download if request["kind"] == "dataset" else kagglehub.notebook_output_download
    call(request["handle"], output_dir=request["folder"])
    return {}


def kind(error):
    if isinstance(error, OSError) and type(error).__module__.split(".")[0] in ("requests", "urllib3"):
        return "network"
    return "credentials" if type(error).__name__ == "UnauthenticatedError" else "other"


def scrub(text):
    """Takes out what a URL carries behind its path, and the values of credentials."""
    text = re.sub(r"\?[^\s'\")]+", "?...", text)
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        secret = os.environ.get(name)
        if secret:
            text = text.replace(secret, "...")
    return text[:600]


ACTIONS = {"look": look, "names": names, "newest": newest, "upload": upload, "download": download}
answer("kagglehub", perform)
