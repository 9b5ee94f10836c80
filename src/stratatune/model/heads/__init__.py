"""Heads: modules that turn a hidden state into logits."""
