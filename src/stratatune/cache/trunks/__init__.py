"""Where hidden states at the frozen depth come from: a trunk in memory, or one that is read from its checkpoint."""
