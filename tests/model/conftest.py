"""Fixtures of the tests of model/: the presets, inputs, and tuned tiny models whose trained values moved."""

from inputs import *  # noqa: F403  (pytest finds fixtures and hooks by their names here)
