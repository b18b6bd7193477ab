"""The recipes of the five documents: each trains what its document trains, and ends in that document's table."""

from bench.recipes.command import main

__all__ = ["main"]
