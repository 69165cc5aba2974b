"""Errors that a user can cause; the command line prints them as one paragraph and exits with 2."""

from __future__ import annotations


class UserError(ValueError):
    """The input is at fault, not the code; the message says what, where and how to mend it.

    Example:
        >>> issubclass(UserError, ValueError)
        True
    """


class TableError(UserError):
    """A metadata table or its schema is at fault; the message names file, row and column."""


class CohortError(UserError):
    """A cohort folder is missing, damaged or unusable for what was asked of it."""


class CheckpointError(UserError):
    """A model folder is missing, damaged or does not fit the cohort."""
