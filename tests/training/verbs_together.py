"""Several commands one after the other, in each of several processes, which import everything once.

python -m torch.distributed.run ... verbs_together.py VERB ... --then VERB ... --first VERB ...

What follows ``--first`` is run by the first process alone.
"""

from __future__ import annotations

import itertools
import os
import sys

from stratatune.app.cli import run

between = "--then"
for separates, words in itertools.groupby(sys.argv[1:], lambda word: word in ("--then", "--first")):
    if separates:
        between = next(words)
    elif (between == "--then" or os.environ["RANK"] == "0") and (code := run(list(words))):
        sys.exit(code)
