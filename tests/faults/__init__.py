"""Faults: malformed input, damage to files, streams that close. The long campaign is ``benchmarks/faults.py``."""
