"""Fixtures of the tests of exits/: the presets and inputs that the tests of model/ have."""

from inputs import *  # noqa: F403  (pytest finds fixtures and hooks by their names here)
