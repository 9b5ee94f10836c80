#!/bin/sh
# transformers 5.24.0 with huggingface-hub 2.4.0: without a network, the tokenizer of a model that is whole in the cache
# loads only after ten retries, some 46 seconds.
#
# The first loading has put every file into the cache, and has noted which optional files do not exist. If the hub's name
# cannot be resolved afterwards (a train, a cluster's compute node), each file comes from the cache at once. But
# AutoTokenizer also asks twice for the list of the repository's files, in search of further chat templates. A list has no
# cache, so huggingface_hub waits 1, 2, 4, 8 and 8 seconds and asks again, both times; then the tokenizer loads. With
# HF_HUB_OFFLINE=1 it loads at once. One would expect that a cached model needs no network, as its weights and config do.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "transformers==5.24.0" "huggingface-hub==2.4.0"
export HF_HOME="$WORK/home" HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_TELEMETRY=1 NO_PROXY="*"
cd "$WORK"
cat >load.py <<'P'
import sys

from transformers import AutoConfig, AutoTokenizer

{"tokenizer": AutoTokenizer, "config": AutoConfig}[sys.argv[1]].from_pretrained("someone/base")
P
cat >try.py <<'P'
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import transformers
from tokenizers import Tokenizer, models
from transformers import BertConfig, PreTrainedTokenizerFast

repository, commit = Path("base"), "0123456789abcdef0123456789abcdef01234567"
words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, "[UNK]"))
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(repository)
BertConfig().save_pretrained(repository)


class Hub(BaseHTTPRequestHandler):
    """A hub with one repository."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        file = repository / path.rpartition("/")[2]
        if "/resolve/" in path and file.is_file():
            self.give(file.read_bytes(), ETag=f'"{file.name}"')
        elif path.endswith("/tree/main"):
            files = [{"type": "file", "path": one.name, "size": 1, "oid": "0"} for one in repository.iterdir()]
            self.give(json.dumps(files).encode(), **{"Content-Type": "application/json"})
        else:
            self.give(b"", 404, **{"X-Error-Code": "EntryNotFound", "X-Error-Message": "not found"})

    def give(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": commit, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def load(what, endpoint, offline="0"):
    """The number of retries; the load must succeed."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": offline}
    words = [sys.executable, "load.py", what]
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return ran.stderr.count("Retrying in")


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
here, nowhere = f"http://127.0.0.1:{server.server_port}", "http://hub.invalid"  # a name that no server has
print(f"transformers {transformers.__version__}, huggingface_hub {huggingface_hub.__version__}")
first = [load(what, here) for what in ("tokenizer", "config")]
print(f"  retries with a network: {first[0]} for the tokenizer, {first[1]} for the config")
later = [load(what, nowhere) for what in ("tokenizer", "config")]
print(f"  without one, from the cache: {later[0]} for the tokenizer, {later[1]} for the config")
declared = load("tokenizer", nowhere, offline="1")
print(f"  with HF_HUB_OFFLINE=1: {declared} for the tokenizer")
sys.exit(0 if first == [0, 0] and later == [10, 0] and declared == 0 else 1)
P
"$WORK/venv/bin/python" try.py
