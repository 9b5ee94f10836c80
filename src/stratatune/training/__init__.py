"""One run: its configuration, the loop, evaluation, checkpoints and tracking."""
