"""The command line; see `main`."""

from .main import app, main

__all__ = ["app", "main"]
