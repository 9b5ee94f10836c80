#!/bin/sh
# safetensors: with safe_open(backend="pread") a slice of a tensor, get_slice(name)[a:b], reads the whole tensor from the file and allocates
# it, whatever a and b are: rows of a word table of 1.2 GB cost 1.2 GB each time. With the default backend, which maps, only the rows are read.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "safetensors==0.8.0" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys
from pathlib import Path

import numpy as np
import safetensors
from safetensors import safe_open
from safetensors.numpy import save_file

save_file({"table": np.zeros((65536, 256), np.float32)}, "model.safetensors")


def read():
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


with safe_open("model.safetensors", framework="np", backend="pread") as file:
    part = file.get_slice("table")
    before = read()
    rows = part[100:102]
    count = read() - before
print("safetensors", safetensors.__version__, "- a table of 64 MiB; two of its rows are", rows.nbytes, "bytes")
print(f"backend='pread': a slice of two rows read {count:,} bytes")
if count < 1 << 20:
    print("CHANGED: only the rows are read")
    sys.exit(1)
PY
