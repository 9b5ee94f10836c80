"""One run: its settings, the loop, evaluation, checkpoints and several processes."""
