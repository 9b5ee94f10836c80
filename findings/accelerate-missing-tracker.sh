#!/bin/sh
# Accelerate leaves out a tracker whose library is not installed, without an error or a warning.
#
# Accelerator(log_with="wandb") in an environment without wandb is accepted; init_trackers, log and end_training do
# nothing, and a whole run is tracked nowhere. A name that Accelerate does not know at all is an error, so a
# misspelling is seen and a missing package is not.
# Seen with accelerate 1.15.0.
# Exits 0 while the behaviour is as described, 1 once it has changed.
set -eu
: "${PY:=python3}"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
"$PY" -m venv "$WORK/venv"
"$WORK/venv/bin/pip" install --quiet "torch==2.13.0" "accelerate==1.15.0"
cd "$WORK"
"$WORK/venv/bin/python" - <<'P'
import importlib.util
import sys
import warnings

import accelerate

print("accelerate", accelerate.__version__, "- wandb installed:", importlib.util.find_spec("wandb") is not None)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    accelerator = accelerate.Accelerator(cpu=True, log_with="wandb")
    accelerator.init_trackers("project", config={"lr": 0.1})
    accelerator.log({"loss": 1.0}, step=1)
    accelerator.end_training()
quiet = not [one for one in said if "wandb" in str(one.message)]
print(f"log_with='wandb': accepted, {len(accelerator.trackers)} trackers, a warning: {not quiet}")
try:
    accelerate.Accelerator(cpu=True, log_with="wanbd")
    refused = False
except ValueError as error:
    refused = True
    print("log_with='wanbd':", str(error).splitlines()[0])
sys.exit(0 if quiet and refused and not accelerator.trackers else 1)
P
