"""The errors a user can cause. Each message is one line: where, what was found, what was expected, what to do."""

from __future__ import annotations


class MSGLDError(Exception):
    """Base of every error that is the input's fault; the command line prints it and exits with status 2."""


class ConfigError(MSGLDError):
    """A configuration file, key or value that cannot be used."""


class DataError(MSGLDError):
    """Audio or a dataset that cannot be used."""


class CheckpointError(MSGLDError):
    """A weights file that cannot be read or does not fit the model."""
