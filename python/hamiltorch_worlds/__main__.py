"""``python -m hamiltorch_worlds`` is the command line."""

from .cli import app

app(prog_name="hamiltorch-worlds")
