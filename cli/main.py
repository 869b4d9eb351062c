"""The `ssrtrack` command. Heavy modules load inside each command, so that `--help` answers at once."""

import codecs
import io
import sys
import traceback
from typing import Annotated

import typer

from ssrtrack import __version__
from ssrtrack.cli.batch import batch
from ssrtrack.cli.evaluate import evaluate
from ssrtrack.cli.export import export
from ssrtrack.cli.info import info
from ssrtrack.cli.ingest import ingest
from ssrtrack.cli.simulate import simulate
from ssrtrack.cli.train import train
from ssrtrack.errors import SsrtrackError

app = typer.Typer(
    name="ssrtrack",
    help="Secondary surveillance radar tracking: plots in, scored tracks out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ssrtrack {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""


app.command()(simulate)
app.command()(ingest)
app.command()(export)
app.command()(info)
app.command()(evaluate)
app.command()(batch)
app.add_typer(train, name="train")


def main() -> None:
    """Run the command line: exit code 0 done, 1 failed, 2 wrong usage, 130 stopped; an error is one readable line."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    _print_anywhere()
    try:
        status = app([a for a in arguments if a != "--debug"], prog_name="ssrtrack", standalone_mode=False)
        if status == 130:  # the parser turns an interrupt into this
            _fail("stopped", debug, 130)
        raise SystemExit(status if isinstance(status, int) else 0)
    except SsrtrackError as error:
        _fail(f"error: {error}", debug)
    except OSError as error:
        _fail(f"error: {error.strerror or error}: {error.filename}" if error.filename else f"error: {error}", debug)
    except MemoryError:
        _fail("error: out of memory; close other programs or give a smaller input", debug)
    except KeyboardInterrupt:
        _fail("stopped", debug, 130)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own: a wrong command, option or value
            if not error.format_message():  # no command at all: the help has been shown
                raise SystemExit(2) from None
            command = getattr(getattr(error, "ctx", None), "command_path", "ssrtrack")
            _fail(f"error: {error.format_message()} (see {command} --help)", debug, 2)
        if type(error).__name__ == "Abort":
            _fail("stopped", debug, 130)
        _fail(f"internal error: {type(error).__name__}: {error} (run again with --debug and report it)", debug)


# What stands for signs that a terminal or file in ASCII or Latin-1 does not know.
_PLAIN = {"±": "+-", "°": "deg", "σ": "sigma", "²": "2", "–": "-", "−": "-", "…": "...", "\u202f": " ", "\u00a0": " "}


def _print_anywhere() -> None:
    codecs.register_error("ssrtrack", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="ssrtrack")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in unknown), error.end


def _fail(message: str, debug: bool, status: int = 1) -> None:
    if debug:
        traceback.print_exc()
    print(" ".join(message.split()), file=sys.stderr)
    raise SystemExit(status)
