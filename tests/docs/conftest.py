"""Fixtures of the tests of the docs: a run of a few steps on a tiny model, and its files."""

from runs import *  # noqa: F403  (pytest finds fixtures by their names here)
