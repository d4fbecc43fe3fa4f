"""The commands: `medimg train`, `medimg deploy` and the rest. They say in a shell what the library says in Python."""

from medimg.cli.app import app, main

__all__ = ["app", "main"]
