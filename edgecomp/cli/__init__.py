"""The command line: commands in `main`, listings, doctor, completion."""

from .main import app, main

__all__ = ["app", "main"]
