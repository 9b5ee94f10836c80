"""Fixtures of the tests on a GPU: a run of a few steps on a tiny model, and its files."""

from runs import *  # noqa: F403  (pytest finds fixtures by their names here)
