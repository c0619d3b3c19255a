"""A server that speaks the routes of Kaggle that kagglehub 1.0 and kaggle 2.2 call, with faults on request.

Datasets and the outputs of notebooks are kept in memory and in a scratch folder. A pushed script is really run: in an
empty working folder, with the outputs of its sources in an input folder.
"""

import base64
import hashlib
import http.server
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import zipfile

SCRATCH = pathlib.Path(sys.argv[1])
USER, KEY = "ann", "key-of-ann-5f2c"
LOCK = threading.RLock()
BLOBS, DATASETS, KERNELS, FAULTS, CALLS = {}, {}, {}, [], []


def fault(name):
    """Takes a fault that was asked for. `name*` stays."""
    with LOCK:
        if name + "*" in FAULTS:
            return True
        if name in FAULTS:
            FAULTS.remove(name)
            return True
    return False


def fault_of(what, name, kind):
    """Takes `what:kind`, a fault of any file, or `what-NAME:kind`, the fault of one."""
    return fault(f"{what}:{kind}") or fault(f"{what}-{name}:{kind}")


class Refused(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status, content=b"", headers=()):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers = [("Content-Type", "application/json"), *headers]
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        content = self.body()
        path = self.path
        if path == "/control":
            with LOCK:
                FAULTS.extend(json.loads(content)["faults"])
            return self.answer(200, {})
        name = path.rsplit("/", 1)[1]
        with LOCK:
            CALLS.append(name)
        expected = "Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            return self.answer(401, {"code": 401, "message": "Unauthenticated"})
        for status in (403, 404, 429, 500):
            if fault(f"{name}:{status}"):
                return self.answer(status, {"code": status, "message": f"no {name} today"})
        try:
            getattr(self, name)(json.loads(content or b"{}"))
        except Refused as refused:
            self.answer(refused.status, {"code": refused.status, "message": str(refused)})

    # Blobs

    def StartBlobUpload(self, request):
        with LOCK:
            token = f"blob-{len(BLOBS)}"
            BLOBS[token] = {"name": request["name"], "size": request.get("contentLength", 0), "bytes": b""}
        url = f"http://127.0.0.1:{self.server.server_port}/upload/{token}?signature=SIGNED-SECRET"
        self.answer(200, {"token": token, "createUrl": url})

    def do_PUT(self):
        blob = BLOBS[self.path.split("?")[0].rsplit("/", 1)[1]]
        place = self.headers.get("Content-Range", "")
        if place.startswith("bytes */"):
            if fault("check:500"):
                return self.answer(500, b"no")
            if len(blob["bytes"]) == blob["size"]:
                return self.answer(200)
            sent = [("Range", f"bytes=0-{len(blob['bytes']) - 1}")] if blob["bytes"] else []
            return self.answer(308, b"", sent)
        if fault("put:503"):
            self.body()
            return self.answer(503, b"busy")
        start = int(place.split()[1].split("-")[0]) if place else 0
        assert start == len(blob["bytes"]), (start, len(blob["bytes"]))
        length = int(self.headers.get("Content-Length") or 0)
        if fault_of("put", blob["name"], "cut"):
            blob["bytes"] += self.rfile.read(length // 2)
            self.close_connection = True
            self.connection.close()
            return None
        blob["bytes"] += self.rfile.read(length)
        self.answer(200)

    # Datasets

    def dataset(self, request, slug="datasetSlug"):
        key = f"{request['ownerSlug']}/{request[slug]}"
        if key not in DATASETS or request["ownerSlug"] != USER:
            raise Refused(403, "Permission 'datasets.get' was denied")
        return DATASETS[key]

    def new_version(self, key, content):
        files = {BLOBS[file["token"]]["name"]: BLOBS[file["token"]]["bytes"] for file in content["files"]}
        assert not content.get("directories"), content
        DATASETS.setdefault(key, []).append({"files": files, "notes": content.get("versionNotes", "")})

    def CreateDataset(self, request):
        key = f"{request['ownerSlug']}/{request['slug']}"
        if request["ownerSlug"] != USER:
            raise Refused(403, "Permission 'datasets.create' was denied")
        if key in DATASETS:
            return self.answer(200, {"error": f"The requested slug {key} is already in use"})
        assert request["isPrivate"] is True
        self.new_version(key, request)
        self.answer(200, {"ref": key, "url": key, "status": "ok"})

    def CreateDatasetVersion(self, request):
        self.dataset(request)
        self.new_version(f"{request['ownerSlug']}/{request['datasetSlug']}", request["body"])
        self.answer(200, {"ref": "", "url": "", "status": "ok"})

    def GetDataset(self, request):
        self.answer(200, {"currentVersionNumber": len(self.dataset(request))})

    def GetDatasetStatus(self, request):
        self.dataset(request)
        for status in ("FAILED", "BLOBS_RECEIVED"):
            if fault(f"status:{status}"):
                return self.answer(200, {"status": status})
        self.answer(200, {"status": "READY"})

    def ListDatasetFiles(self, request):
        files = self.dataset(request)[request["datasetVersionNumber"] - 1]["files"]
        rows = [{"name": name, "totalBytes": len(content)} for name, content in sorted(files.items())]
        # Two pages, to see that both are read.
        if request.get("pageToken"):
            return self.answer(200, {"datasetFiles": rows[2:]})
        self.answer(200, {"datasetFiles": rows[:2], "nextPageToken": "more"})

    def ListTreeDatasetFiles(self, request):
        self.dataset(request)
        self.answer(200, {"files": [], "directories": []})

    def DownloadDataset(self, request):
        versions = self.dataset(request)
        files = versions[request.get("datasetVersionNumber", len(versions)) - 1]["files"]
        name = request.get("fileName")
        if name is not None and name not in files:
            raise Refused(404, "Not found")
        self.redirect(name or "archive.zip", files[name] if name else archive(files))

    # Notebooks

    def kernel(self, request, owner="userName"):
        key = f"{request[owner]}/{request['kernelSlug']}"
        if key not in KERNELS:
            raise Refused(403, "Permission 'kernels.get' was denied")
        return KERNELS[key]

    def SaveKernel(self, request):
        key = request["slug"]
        if fault("quota"):
            return self.answer(200, {"error": "Maximum weekly GPU quota of 30.00 hours reached."})
        versions = KERNELS.setdefault(key, [])
        sources = request.get("kernelDataSources", [])
        missing = [source for source in sources if not KERNELS.get("/".join(source.split("/")[:2]))]
        if fault("sources:refused"):
            missing = sources
        version = {"number": len(versions) + 1, "polls": 1, "status": "RUNNING", "log": "", "sources": sources}
        folder = SCRATCH / f"session-{key.replace('/', '-')}-{version['number']}"
        version["work"], inputs = folder / "working", folder / "input"
        version["work"].mkdir(parents=True)
        inputs.mkdir()
        for source in sources:
            owner, slug, *number = source.split("/")
            if source not in missing and KERNELS[f"{owner}/{slug}"]:
                # Without a number, the newest version counts, whatever became of it.
                earlier = KERNELS[f"{owner}/{slug}"][int(number[0]) - 1 if number else -1]
                if earlier["status"] == "COMPLETE":
                    shutil.copytree(earlier["work"], inputs / slug)
        versions.append(version)
        (folder / "script.py").write_text(request["text"])
        status = "COMPLETE"
        if not fault("session:nothing"):
            ran = subprocess.run(
                [sys.executable, str(folder / "script.py")],
                cwd=version["work"],
                env={**os.environ, "INPUT": str(inputs)},
                capture_output=True,
                text=True,
            )
            version["log"] = ran.stdout + ran.stderr
            status = "COMPLETE" if ran.returncode == 0 else "ERROR"
        version["status"] = "ERROR" if fault("session:error") else status
        self.answer(
            200,
            {
                "ref": key,
                "url": f"https://www.kaggle.com/code/{key}",
                "versionNumber": version["number"],
                "invalidKernelSources": missing,
            },
        )

    def GetKernel(self, request):
        self.answer(200, {"metadata": {"currentVersionNumber": len(self.kernel(request))}, "blob": {}})

    def GetKernelSessionStatus(self, request):
        newest = self.kernel(request)[-1]
        newest["polls"] -= 1
        if newest["polls"] >= 0:
            return self.answer(200, {"status": "QUEUED"})
        answer = {"status": newest["status"]}
        if newest["status"] == "ERROR":
            answer["failureMessage"] = "the script ended with an error"
        self.answer(200, answer)

    def ListKernelSessionOutput(self, request):
        newest = self.kernel(request)[-1]
        work = newest["work"]
        names = sorted(str(path.relative_to(work)) for path in work.rglob("*") if path.is_file())
        base = f"http://127.0.0.1:{self.server.server_port}/output"
        files = [{"fileName": name, "url": f"{base}/{work.parent.name}/{name}?signature=SIGNED-SECRET"} for name in names]
        # The real one gives pages of 20; these have 3.
        start = int(request.get("pageToken") or 0)
        answer = {"files": files[start : start + 3], "log": newest["log"]}
        if start + 3 < len(files):
            answer["nextPageToken"] = str(start + 3)
        self.answer(200, answer)

    def DownloadKernelOutput(self, request):
        versions = self.kernel(request, "ownerSlug")
        work = versions[request.get("versionNumber", len(versions)) - 1]["work"]
        files = {str(path.relative_to(work)): path.read_bytes() for path in work.rglob("*") if path.is_file()}
        self.redirect("output.zip", archive(files))

    # Downloads, as signed URLs of another server

    def redirect(self, name, content):
        sent = bytearray(content)
        if fault_of("download", name, "flip"):
            sent[len(sent) // 2] ^= 1
        hashed = content
        if fault_of("download", name, "damaged"):
            # The zip is consistent with itself: only keepstep's own checks can tell.
            sent = bytearray(archive(spoil(content)))
            hashed = bytes(sent)
        with LOCK:
            key = f"/blob/{len(BLOBS)}-{len(CALLS)}/{name}"
            BLOBS[key] = (bytes(sent), hashed)
        self.answer(302, b"", [("Location", f"http://127.0.0.1:{self.server.server_port}{key}?signature=SIGNED-SECRET")])

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/calls":
            notes = {key: [version["notes"] for version in versions] for key, versions in DATASETS.items()}
            return self.answer(200, {"calls": CALLS, "notes": notes})
        if path.startswith("/output/"):
            _, _, session, name = path.split("/", 3)
            return self.answer(200, (SCRATCH / session / "working" / name).read_bytes())
        content, hashed = BLOBS[path]
        digest = base64.b64encode(hashlib.md5(hashed).digest()).decode()
        headers = [("X-Goog-Hash", f"md5={digest}"), ("Accept-Ranges", "bytes")]
        if fault_of("download", path.rsplit("/", 1)[1], "cut"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return None
        self.answer(200, content, headers)


def archive(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in sorted(files.items()):
            file.writestr(name, content)
    return buffer.getvalue()


def spoil(content):
    """The files of an archive, one bit of the largest one flipped."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        files = {name: file.read(name) for name in file.namelist()}
    largest = max(files, key=lambda name: len(files[name]))
    flipped = bytearray(files[largest])
    flipped[len(flipped) // 2] ^= 1
    files[largest] = bytes(flipped)
    return files


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
# The end of the test closes the pipe.
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
server.serve_forever()
