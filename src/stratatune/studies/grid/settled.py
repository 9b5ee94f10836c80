"""Imported last by the fork server of a worker, to exempt everything in memory by then from garbage collection.

Otherwise the first full pass of the garbage collector in each run would write to every page that it shares with the
server, and the system would copy them all.
"""

import gc

gc.collect()
gc.freeze()
