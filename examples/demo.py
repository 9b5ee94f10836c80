"""The demo: `bft-adapter` beside `lora` on a sample set, with the packaged model. The same as `stratatune demo`."""

import sys

from stratatune.app.cli import run

if __name__ == "__main__":
    sys.exit(run(["demo", *sys.argv[1:]]))
