"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def ending_in(*known: str) -> Callable[[Path | None], Path | None]:
    """Return a check that refuses a path with another ending, before any work is done."""

    def check(path: Path | None) -> Path | None:
        from cutaway.results.saving import ending

        if path:
            ending(path, known)
        return path

    return check


def _output(*known: str) -> Any:
    return typer.Option(
        "-o", "--output", help=f"Write to a file instead: {' '.join(known)}.", callback=ending_in(*known)
    )


_TEXT = typer.Argument(help="The text; - reads standard input.")
_DATA = (".json", ".csv", ".parquet")

TextArgument = Annotated[str, _TEXT]
OptionalTextArgument = Annotated[str | None, _TEXT]
PromptsArgument = Annotated[list[str], typer.Argument(help="One or more prompts; - reads standard input.")]
TextOption = Annotated[str | None, typer.Option(help="The text; - reads standard input.")]
ModelOption = Annotated[
    str | None, typer.Option("-m", "--model", help="A hub id, a folder or a file.", show_default="bundled")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
DtypeOption = Annotated[str | None, typer.Option(help="float32, float16, bfloat16 or float64.")]
BosOption = Annotated[
    bool, typer.Option("--bos", help="Put the model's BOS token (GPT-2: end of text) in front of each text.")
]
TopOption = Annotated[int, typer.Option(help="Show this many candidates.", min=1)]
LayerOption = Annotated[
    list[int] | None, typer.Option(help="Only this layer; negative counts from the end; repeatable.")
]
CorpusOption = Annotated[
    list[str] | None,
    typer.Option(help="Text, record and table files, folders or quoted globs; repeatable.", show_default="bundled"),
]
CorpusInsteadOption = Annotated[
    list[str] | None,
    typer.Option("--corpus", help="Average over these files, folders or quoted globs instead; repeatable."),
]
FieldOption = Annotated[
    str | None,
    typer.Option(
        help="The field that holds the text or the token ids in records of --corpus.", show_default="text, input_ids"
    ),
]
SeedOption = Annotated[int, typer.Option(help="Equal seeds give equal random draws.", min=0, max=2**64 - 1)]
StateOption = Annotated[
    Path | None, typer.Option(help="Save the work to this file as it goes, and resume from it.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OutputOption = Annotated[Path | None, _output(".html", ".png", ".svg", *_DATA)]
DataOption = Annotated[Path | None, _output(*_DATA)]
