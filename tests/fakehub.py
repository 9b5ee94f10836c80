"""A hub on loopback: what Hugging Face's client asks of one to create a repository, commit files and fetch them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def _give(self, value, status=200, headers=()):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, held in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, held)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _asked(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_POST(self):
        asked, repos = self._asked(), self.server.repos
        if self.path == "/api/validate-yaml":
            return self._give({"warnings": [], "errors": []})
        if self.path == "/api/repos/create":
            if self.headers.get("Authorization") != "Bearer right":
                return self._give({"error": "Invalid credentials"}, 401)
            said = json.loads(asked)
            name = f"{said.get('organization') or 'someone'}/{said['name']}"
            repos.setdefault(name, {})
            self.server.private[name] = said.get("visibility") == "private" or bool(said.get("private"))
            return self._give({"url": f"{self.server.address}/{name}", "name": name})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path.partition("?")[0])
        if found and found[2] == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(asked)["files"]
            ]
            return self._give({"files": files})
        if found:
            for line in map(json.loads, asked.splitlines()):
                if line["key"] == "file":
                    repos[found[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            address = f"{self.server.address}/{found[1]}/commit/{COMMIT}"
            return self._give({"success": True, "commitOid": COMMIT, "commitUrl": address, "hookOutput": ""})
        return self._give({"error": f"POST {self.path}"}, 404)

    def do_GET(self):
        path, repos = self.path.partition("?")[0], self.server.repos
        if path == "/api/whoami-v2":
            return self._give({"type": "user", "name": "someone", "orgs": []})
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path)
        if info and info[1] in repos:
            siblings = [{"rfilename": name} for name in sorted(repos[info[1]])]
            return self._give({"_id": "1", "id": info[1], "sha": COMMIT, "siblings": siblings, "tags": []})
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path)
        if tree and tree[1] in repos:
            files = repos[tree[1]].items()
            return self._give(
                [{"type": "file", "path": name, "size": len(held), "oid": _etag(held)} for name, held in files]
            )
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if file and file[2] in repos.get(file[1], {}):
            held = repos[file[1]][file[2]]
            return self._give(held, headers=(("ETag", f'"{_etag(held)}"'), ("X-Repo-Commit", COMMIT)))
        known = file is not None and file[1] in repos
        code = "EntryNotFound" if known else "RepoNotFound"
        return self._give({"error": f"{self.command} {self.path}"}, 404, headers=(("X-Error-Code", code),))

    do_HEAD = do_GET


def _etag(held: bytes) -> str:
    return hashlib.sha1(held).hexdigest()


@contextmanager
def fake_hub() -> Iterator[ThreadingHTTPServer]:
    """A server whose ``repos`` are what was pushed, by name and path; its token is ``right``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.repos, server.private = {}, {}
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
