#!/bin/sh
# safetensors: safe_open(backend="pread") reads tensors without mapping the file, but maps all of it while it opens it. Under a limit on the
# address space (RLIMIT_AS, `ulimit -v`) a shard larger than what is left cannot be opened, although a tensor of it would fit.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "safetensors==0.8.0" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import re, resource, sys
from pathlib import Path

import numpy as np
import safetensors
from safetensors import safe_open
from safetensors.numpy import save_file

save_file({"large": np.zeros(64 << 20, np.float32), "small": np.ones(4, np.float32)}, "model.safetensors")
size = Path("model.safetensors").stat().st_size


def mapped(field):
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


print("safetensors", safetensors.__version__, f"- a file of {size >> 20} MiB with a tensor of 16 bytes in it")
limit = mapped("VmSize") + (128 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    with safe_open("model.safetensors", framework="np", backend="pread") as file:
        print("opened; small is", file.get_tensor("small"))
    print("CHANGED: the file is not mapped while it is opened")
    sys.exit(1)
except (MemoryError, OSError) as error:
    print(f"with 128 MiB of address space left: {type(error).__name__}: {error}")
PY
