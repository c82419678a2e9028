"""The Typer app and the handling of errors and exit codes.

Importing this module is cheap, so that a signal during the imports of a command is already handled.
"""

from __future__ import annotations

import errno
import os
import sys
from functools import cache
from typing import TYPE_CHECKING

from sidkit.core.interrupt import interruptible

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import typer


@cache
def build_app() -> typer.Typer:
    """Build the app with all commands."""
    import typer

    # The groups' commands register themselves when their modules are imported.
    from sidkit.cli import codebook_quality, codebooks, data, embed, rankers  # noqa: F401
    from sidkit.cli.artifacts import artifacts_app
    from sidkit.cli.audit import audit_app
    from sidkit.cli.compare import compare
    from sidkit.cli.events import events_app
    from sidkit.cli.features import features_app
    from sidkit.cli.forget import forget
    from sidkit.cli.leakage import leakage
    from sidkit.cli.monitor import monitor
    from sidkit.cli.options import codebooks_app, data_app, ranker_app, tables_app
    from sidkit.cli.profiles import profile_app
    from sidkit.cli.rankers import frame, score
    from sidkit.cli.repos import apply, doctor, init, materialize_, relocate, upgrade_
    from sidkit.cli.run import run
    from sidkit.cli.serve import serve
    from sidkit.cli.shared_options import with_warnings
    from sidkit.cli.train import train

    app = typer.Typer(
        name="sidkit",
        help="Semantic IDs as ordinary features, from a raw click log to an online score.",
        no_args_is_help=True,
        rich_markup_mode=None,  # Rich would take [codebook] in a help text for markup
        pretty_exceptions_enable=False,
    )
    app.callback()(with_warnings)
    app.command()(init)
    app.add_typer(data_app, name="data")
    app.add_typer(tables_app, name="tables")
    app.command()(forget)
    app.command()(doctor)
    app.command()(apply)
    app.add_typer(profile_app, name="profile")
    app.add_typer(artifacts_app, name="artifacts")
    app.command()(relocate)
    app.command("upgrade")(upgrade_)
    app.command("materialize")(materialize_)
    app.add_typer(codebooks_app, name="codebooks")
    app.add_typer(features_app, name="features")
    app.add_typer(events_app, name="events")
    app.command()(run)
    app.command()(frame)
    app.command()(score)
    app.command()(serve)
    ranker_app.command("train")(train)
    ranker_app.command("compare")(compare)
    app.add_typer(audit_app, name="audit")
    app.command()(monitor)
    app.command()(leakage)
    app.add_typer(ranker_app, name="ranker")
    return app


@cache
def _command() -> Callable[..., Any]:
    """The command of the app: Typer would derive the parameters of all its commands again at each call."""
    from typer.main import get_command

    from sidkit.cli.shared_options import add_shared_options

    command = get_command(build_app())
    add_shared_options(command)
    return command


def main() -> None:
    """Run the command line.

    Exit codes: 1 with one message on stderr for expected errors, 2 for a wrong argument, 143 or 130 for a signal.
    Messages contain no passwords (:mod:`sidkit.core.redact`).
    """
    # OpenMP threads that spin while waiting slow down small models 10 times when another process wants a core.
    # The variable is read when torch, faiss or scikit-learn are loaded, so it is set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with interruptible() as interrupted:
        code = _run(interrupted)
    if code:
        sys.exit(code)


def _run(interrupted: Callable[[], bool]) -> int:
    import traceback

    from sidkit.cli.output import VERBOSITY, measured
    from sidkit.core.redact import remember, scrubbed
    from sidkit.core.temporary import avoid_test_write

    avoid_test_write()
    if (empty := _empty_option(sys.argv[1:])) is not None:
        sys.stderr.write(
            f"sidkit: expected a value for {empty}, got an empty text (an unset variable?); give a value or leave it out\n"
        )
        return 2
    for argument in sys.argv[1:]:
        remember(argument.rpartition("=")[2] if argument.startswith("--") else argument)
    VERBOSITY.quiet = VERBOSITY.verbose = False
    try:
        with measured():
            code = _command()(prog_name="sidkit", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except Exception as error:
        if interrupted():
            raise
        if (message := _refusal(error)) is not None:
            if VERBOSITY.verbose:
                sys.stderr.write(scrubbed(traceback.format_exc()))
            sys.stderr.write(f"sidkit: {scrubbed(message)}\n")
            return 1
        if not hasattr(error, "format_message"):
            sys.stderr.write(scrubbed(traceback.format_exc()))
            return 1
        # Typer's own error about a wrong argument; its message may repeat the argument.
        if hasattr(error, "message"):
            error.message = scrubbed(error.message)
        error.show()  # type: ignore[attr-defined]
        return int(getattr(error, "exit_code", 2))


def _empty_option(arguments: list[str]) -> str | None:
    """Name of the first empty argument, as from an unset shell variable, or None; ``--prompt`` may be empty."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name = argument.removesuffix("=") if argument.startswith("--") and argument.endswith("=") else before
        if (argument == "" or name != before) and name != "--prompt":
            return name if name.startswith("-") and name != "--" else "an argument"
    return None


def _refusal(error: Exception) -> Exception | str | None:
    """Message for an error caused by user input or the disk; None for a bug, which gets a traceback."""
    from sidkit.core.errors import SidkitError, StorageError
    from sidkit.core.extras import EXTRAS_OF, missing_extra
    from sidkit.core.files import disk_refused

    if isinstance(error, SidkitError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS_OF:
        return missing_extra([error.name], "this command")
    if isinstance(error, OSError) and (disk_refused(error) or error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}):
        return StorageError(error.filename or "a file", error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; use another path"
    if isinstance(error, UnicodeEncodeError) and any("\udc80" <= letter <= "\udcff" for letter in "".join(sys.argv)):
        return "expected arguments in UTF-8, got other bytes; rename the file or use another path"
    return None


if __name__ == "__main__":
    main()
