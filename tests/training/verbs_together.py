"""Several commands one after the other, in each of several processes, which import everything once.

python -m torch.distributed.run ... verbs_together.py VERB ... --then VERB ...
"""

from __future__ import annotations

import itertools
import sys

from stratatune.app.cli import run

for then, words in itertools.groupby(sys.argv[1:], lambda word: word == "--then"):
    if not then and (code := run(list(words))):
        sys.exit(code)
