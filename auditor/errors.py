"""The two ways an audit can stop that a person can do something about."""

from __future__ import annotations


class InputError(Exception):
    """The user's input is wrong: one sentence naming the key, file or row. The command exits with 2."""


class StageError(Exception):
    """A stage cannot go on (a loss that is not finite, rows that are missing). The command exits with 1."""
