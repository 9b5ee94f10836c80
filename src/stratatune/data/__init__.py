"""From tables to batches: sources, labels, tasks, templates, encoding and batching.

Importing this package or ``tasks`` and ``templates`` pulls in no torch, no transformers, no pandas and no datasets.
"""
