"""A hub on this machine: what huggingface_hub asks of one to download a checkpoint, and nothing else.

with LocalHub({"someone/tiny": folder}) as hub:
    hub.url    # for HF_ENDPOINT
    hub.asked  # the paths of all requests
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class LocalHub:
    """Serves folders as models, at the branch "main" and the commit `COMMIT`.

    Attributes
    ----------
    broken : set of str
        Files that are cut off in the middle.
    gated : set of str
        Models of which the hub gives nobody the files.
    """

    def __init__(self, folders):
        self.folders, self.asked, self.broken, self.gated = folders, [], set(), set()

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.hub.asked.append(self.path)
        if match := re.fullmatch(r"/api/models/(.+?)(?:/(revision|tree)/(\w+))?(?:\?.*)?", self.path):
            name, kind, revision = match.groups()
            self._tell(name, revision or "main", is_tree=kind == "tree")
        elif match := re.fullmatch(r"/(.+?)/resolve/(\w+)/(.+)", self.path):
            self._give(*match.groups())
        else:
            self._refuse("EntryNotFound")

    do_HEAD = do_GET  # noqa: N815  # as the server calls it

    def log_message(self, *_):
        pass

    def _tell(self, name, revision, is_tree):
        if name not in self.hub.folders:
            return self._refuse("RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._refuse("RevisionNotFound")
        files = sorted(path for path in self.hub.folders[name].rglob("*") if path.is_file())
        names = [path.relative_to(self.hub.folders[name]).as_posix() for path in files]
        tree = [
            {"type": "file", "path": n, "size": path.stat().st_size, "oid": _etag(path)}
            for n, path in zip(names, files, strict=True)
        ]
        model = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
        return self._send(json.dumps(tree if is_tree else model).encode(), {})

    def _give(self, name, revision, file):
        path = self.hub.folders[name] / file
        if name in self.hub.gated:
            return self._refuse("GatedRepo", 403)
        if not path.is_file():
            return self._refuse("EntryNotFound")
        content = path.read_bytes()
        return self._send(
            content, {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT}, file in self.hub.broken
        )

    def _send(self, content, headers, is_broken=False):
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if is_broken else content)
            self.close_connection = True

    def _refuse(self, code, status=404):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)  # without which the cache notes nothing
        self.send_header("Content-Length", "0")
        self.end_headers()


def _etag(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
