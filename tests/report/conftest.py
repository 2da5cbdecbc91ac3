"""Fixtures of the figures' tests, which the report's tests use too."""

from tests.figures.conftest import *  # noqa: F403
