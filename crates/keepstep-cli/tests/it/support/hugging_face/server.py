"""A server that speaks the routes of the Hugging Face hub that huggingface_hub 2.4 calls for a commit without Xet."""

import base64
import hashlib
import http.server
import json
import os
import sys
import threading

TOKEN = "hf_TokenOfAnn123456"
OBJECTS, REPOSITORIES, FAULTS, COMMITS = {}, {}, [], []


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

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

    def fault(self, name):
        if name in FAULTS:
            FAULTS.remove(name)
            return True
        return False

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        if path == "/control":
            FAULTS.extend(json.loads(body)["faults"])
            return self.answer(200, {})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials"}, [("X-Error-Message", "Invalid credentials")])
        here = f"http://127.0.0.1:{self.server.server_port}"
        if path == "/api/repos/create":
            request = json.loads(body)
            name = f"{request.get('organization') or 'ann'}/{request['name']}"
            if not name.startswith("ann/"):
                return self.answer(403, {"error": "no rights here"})
            if name in REPOSITORIES:
                return self.answer(409, {"error": "You already created this model repo", "url": f"{here}/{name}"})
            assert request["visibility"] == "private", request
            REPOSITORIES[name] = {}
            return self.answer(200, {"url": f"{here}/{name}"})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            mode = lambda file: "lfs" if file["path"].endswith((".safetensors", ".pt")) else "regular"
            rows = [{"path": f["path"], "uploadMode": mode(f), "shouldIgnore": False, "oid": None} for f in files]
            return self.answer(200, {"files": rows})
        if path.endswith("/info/lfs/objects/batch"):
            rows = []
            for item in json.loads(body)["objects"]:
                href = f"{here}/lfs/{item['oid']}?signature=SIGNED-SECRET"
                rows.append({**item, "actions": {"upload": {"href": href}}})
            return self.answer(200, {"objects": rows, "transfer": "basic"})
        if "/commit/" in path:
            if self.fault("commit:429"):
                return self.answer(429, {"error": "You have exceeded 128 commits per hour"})
            repository = path.split("/api/models/")[1].split("/commit/")[0]
            files = REPOSITORIES[repository]
            for line in body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "header":
                    COMMITS.append(value["summary"])
                elif item["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    files[value["path"]] = OBJECTS[value["oid"]]
            oid = f"{len(COMMITS):040x}"
            return self.answer(
                200, {"commitUrl": f"{here}/{repository}/commit/{oid}", "commitOid": oid, "success": True}
            )
        self.answer(404, {"error": path})

    def do_PUT(self):
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.fault("put:flip"):
            content = content[:-1] + bytes([content[-1] ^ 1])
        OBJECTS[self.path.split("?")[0].rsplit("/", 1)[1]] = content
        self.answer(200)

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/commits":
            return self.answer(200, COMMITS)
        if path.startswith("/files/"):
            _, _, owner, name, file = path.split("/", 4)
            return self.answer(200, REPOSITORIES[f"{owner}/{name}"][file])
        if "/tree/" in path:
            repository = path.split("/api/models/")[1].split("/tree/")[0]
            rows = []
            for name, content in sorted(REPOSITORIES[repository].items()):
                row = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                if name.endswith((".safetensors", ".pt")):
                    digest = hashlib.sha256(content).hexdigest()
                    row["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
                rows.append(row)
            return self.answer(200, rows)
        self.answer(404, {"error": path})


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
server.serve_forever()
