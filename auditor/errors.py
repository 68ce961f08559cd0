"""How an audit can stop: two ways that a person can do something about, and one that a person asked for."""

from __future__ import annotations


class InputError(Exception):
    """The user's input is wrong: one sentence naming the key, file or row. The command exits with 2."""


class StageError(Exception):
    """A stage cannot go on (a loss that is not finite, rows that are missing). The command exits with 1."""


class Stopped(BaseException):
    """The process was asked to end. As with KeyboardInterrupt, nothing takes it for an error and goes on."""
