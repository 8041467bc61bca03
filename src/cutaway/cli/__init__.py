"""Run the command line: `cutaway COMMAND`.

commands/ has one file a command; options.py what several of them share, inputs.py what they read, output.py what they
print and write. Each command imports what it needs when it runs, so that `cutaway --help` is quick. A user's mistake
prints one line and exits with 2.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from typing import Any

import typer

from cutaway.cli.commands import (
    ablate,
    anatomy,
    attention,
    attribute,
    generate,
    lens,
    norms,
    patch,
    predict,
    report,
    sites,
    states,
    tokens,
    trace,
    unigram,
    versions,
)
from cutaway.cli.commands import app as workbench
from cutaway.cli.output import INTERRUPTED
from cutaway.errors import CutawayError, CutawayWarning
from cutaway.text.display import visible

# typer carries its own click or uses the installed one, depending on its version; its public exceptions show which.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
Abort: type[BaseException] = typer.Abort

TOO_LITTLE_MEMORY = "the memory is not enough for this: give less text, or ask for less at once"

app = typer.Typer(
    name="cutaway",
    help="Open up a GPT-2-class language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (  # in the order of --help
    report.report,
    predict.predict,
    lens.lens,
    attention.attention,
    ablate.ablate,
    attribute.attribute,
    trace.trace,
    patch.patch,
    states.states,
    norms.norms,
    unigram.unigram,
    generate.generate,
    tokens.tokens,
    anatomy.anatomy,
    sites.sites,
    versions.versions,
    workbench.app,
):
    app.command()(command)


def main() -> None:
    """Run the command line, and exit: 0 for success, 2 for a user's mistake (one line), 130 for Ctrl-C."""
    _use_utf8()
    _warn_in_one_line()
    try:
        code = app(prog_name="cutaway", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # some versions of typer return it for Ctrl-C
            print("interrupted", file=sys.stderr)
    except UsageError as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "cutaway"
        message = getattr(error, "format_message", error.__str__)().rstrip(".")
        code = _fail(f"{message}; see '{command} --help'") if message else 2  # without a message, help was shown
    except CutawayError as error:
        code = _fail(str(error))
    except (KeyboardInterrupt, Abort):
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except SystemExit as stop:  # whatever raised it has said why
        code = stop.code
    except MemoryError:
        code = _fail(TOO_LITTLE_MEMORY)
    except BrokenPipeError:  # the reader has left, as `| head` does
        _drop_output()
        code = 1
    except OSError as error:  # such as a full disk behind a redirection
        _drop_output()
        code = _fail(f"the system refused to read or write: {error}")
    except RuntimeError as error:
        if not any(words in str(error) for words in ("allocate memory", "out of memory")):  # torch's words
            raise
        code = _fail(TOO_LITTLE_MEMORY)
    sys.exit(code if isinstance(code, int) else 0)


def _drop_output() -> None:
    """Discard what is not printed yet; Python would complain when it flushes on its way out."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _use_utf8() -> None:
    """Read and print UTF-8, whatever the locale."""
    for stream, errors in [(sys.stdin, "strict"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")]:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _warn_in_one_line() -> None:
    """Print Cutaway's warnings as one line on standard error; leave other libraries' warnings as they are."""
    plain = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, CutawayWarning):
            print("cutaway: warning:", visible(" ".join(str(message).split())), file=sys.stderr)
        else:
            plain(message, category, *where, **more)

    warnings.showwarning = show


def _fail(message: str) -> int:
    """Print an error as one line, and return the exit code of a user's mistake."""
    print("cutaway: error:", visible(" ".join(message.split())), file=sys.stderr)
    return 2
