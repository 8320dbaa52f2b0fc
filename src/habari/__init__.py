"""Habari: a data-science platform for a team, with a home and an S3 bucket for everyone in one file tree."""

from importlib import metadata

__version__ = metadata.version("habari")
