"""The command line: `cutaway COMMAND`.

Each command imports what it needs when it runs, so that `cutaway --help` is quick. A user's mistake prints one line
and exits with 2.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Any

import typer

from cutaway.cli import corpora, models, patches, texts, workbench
from cutaway.errors import CutawayError, CutawayWarning
from cutaway.tokens import visible

# typer carries its own click or uses the installed one, by version; its public exceptions tell which.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
Abort: type[BaseException] = typer.Abort

app = typer.Typer(
    name="cutaway",
    help="Open up a GPT-2-class language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (  # in the order of --help
    corpora.report,
    texts.predict,
    texts.lens,
    texts.attention,
    texts.ablate,
    texts.attribute,
    texts.trace,
    patches.patch,
    corpora.states,
    corpora.norms,
    corpora.unigram,
    texts.generate,
    texts.tokens,
    models.anatomy,
    models.sites,
    models.versions,
):
    app.command()(command)
app.command("app")(workbench.workbench)


def main() -> None:
    """Run the command line: 0 for success, 2 for a user's mistake (one line), 130 for Ctrl-C."""
    _speak_utf8()
    _warn_in_one_line()
    try:
        code = app(prog_name="cutaway", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "cutaway"
        message = getattr(error, "format_message", error.__str__)().rstrip(".")
        code = _fail(f"{message}; see '{command} --help'") if message else 2  # without one, help was shown
    except CutawayError as error:
        code = _fail(str(error))
    except (KeyboardInterrupt, Abort):
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # as `| head` leaves it; Python would complain when it flushes on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _speak_utf8() -> None:
    """Text comes in and goes out as UTF-8, whatever the locale."""
    for stream, errors in [(sys.stdin, "strict"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")]:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _warn_in_one_line() -> None:
    """What Cutaway warns of is one line on standard error; other libraries' warnings stay as they are."""
    plain = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, CutawayWarning):
            print("cutaway: warning:", visible(" ".join(str(message).split())), file=sys.stderr)
        else:
            plain(message, category, *where, **more)

    warnings.showwarning = show


def _fail(message: str) -> int:
    print("cutaway: error:", visible(" ".join(message.split())), file=sys.stderr)
    return 2
