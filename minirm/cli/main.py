"""Reward models from scratch: train on comparisons of responses, evaluate, and score."""

import contextlib
import io
import os
import sys

import tyro

from minirm.cli import STOPPED
from minirm.cli.commands import COMMANDS, Command
from minirm.cli.console import UNPAIRED, LastingConsole
from minirm.cli.memory import is_out_of_memory, keep_freed_memory
from minirm.cli.watcher import sigterm_as_ctrl_c, tell
from minirm.errors import InputError
from minirm.files.disk import naming

FILES = ("--data", "--validation", "--other")
ONCE = (*FILES, "--prompts", "--file", "--prompt")
"""Options that name what is read, and would silently forget what was given before."""
BROKEN_PIPE = 141
"""Exit status of what SIGPIPE ends: 128 and the signal's number."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for what the user has to mend, 130 when stopped.

    141 says that whoever read the output left before its end.
    """
    if sys.stderr is None:  # the caller closed it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 open as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=UNPAIRED)
    keep_freed_memory()
    LastingConsole.was_left = False
    status = _run(arguments)
    if status != BROKEN_PIPE and not LastingConsole.was_left:
        return status
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python still holds goes there at its end
    return status or BROKEN_PIPE


def _run(arguments: list[str] | None) -> int:
    try:
        with sigterm_as_ctrl_c(), naming("standard output"):  # who writes anywhere else has named it
            return _parse(sys.argv[1:] if arguments is None else arguments).run()
    except InputError as error:
        return _refuse(str(error))
    except BrokenPipeError:  # whoever read the output has read enough
        return BROKEN_PIPE
    except OSError as error:
        name = error.filename2 or error.filename
        return _refuse(f"{name}: {error.strerror}" if name else str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _refuse(
            "not enough memory: take a smaller model, or in minirm train a lower --tokens-per-batch or --max-tokens"
        )
    except KeyboardInterrupt:
        tell("minirm: stopped")
        return STOPPED


def _refuse(message: str) -> int:
    tell(f"minirm: {' '.join(message.split())}")
    return 2


def _parse(arguments: list[str]) -> Command:
    """Return the command that the arguments ask for, complete and checked.

    Raises:
        InputError: a configuration refuses a value.
        SystemExit: help was asked for, or the arguments are no command; tyro has said so.
    """
    named = [argument.partition("=")[0] for argument in arguments]
    for option in ONCE:
        if named.count(option) > 1:
            rule = (
                f"name all its files behind one {option}" if option in (*FILES, "--prompts") else "it takes one value"
            )
            raise InputError(f"{option} is given twice: {rule}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(sys.stdout or io.StringIO()):
            return tyro.extras.subcommand_cli_from_dict(
                dict(COMMANDS), args=arguments, prog="minirm", description=__doc__
            )
    except SystemExit as exit:
        error: BaseException | None = exit
        while error := error.__context__:
            if isinstance(error, InputError):  # one line instead of tyro's box
                raise error from None
        sys.stderr.write(said.getvalue())
        raise
