"""Text to batches: tasks, readers, templates, encoding, batching and the trunk cache.

Importing this package or ``tasks`` and ``templates`` pulls in no torch, no transformers, no pandas and no datasets.
"""
