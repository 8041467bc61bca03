"""`cutaway anatomy`: show what a model is made of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.cli.inputs import load
from cutaway.cli.options import DeviceOption, DtypeOption, JsonOption, ModelOption, OutputOption
from cutaway.cli.output import show

if TYPE_CHECKING:
    from cutaway.model.model import Model


def anatomy(
    model: ModelOption = None,
    check: Annotated[
        bool,
        typer.Option("--verify", help="Measure what should be true: tied head, causality, transformers' logits."),
    ] = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Show sizes, parameters by part, tokenizer, dtype and device; or, with --verify, measured facts."""
    from cutaway.analyses import anatomy as analysis

    loaded = load(model, device, dtype)
    if not check:
        show(analysis.read(loaded), as_json, output)
        return
    from cutaway.analyses.verification import verify

    show(verify(loaded, _transformers_model(model, loaded)), as_json, output)


def _transformers_model(source: str | None, loaded: Model) -> Any:
    """Open the same checkpoint in transformers.

    Says why on standard error, and returns None, where transformers is not installed or cannot open it.
    """
    import importlib.util
    from logging import ERROR

    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed: logits are not compared with it", file=sys.stderr)
        return None
    from transformers import GPT2LMHeadModel
    from transformers.utils import logging

    from cutaway.model.checkpoints.checkpoint import bundled_folder
    from cutaway.model.checkpoints.hub import ALIASES

    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = Path(source or bundled_folder()).expanduser()
    checkpoint = folder if folder.is_dir() else ALIASES.get(str(source).lower(), source)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)  # without its report of tensors that it does not know
    reference: Any = None
    try:
        read: Any = GPT2LMHeadModel.from_pretrained
        reference, report = read(checkpoint, dtype=loaded.dtype, output_loading_info=True)
        problem = "some of its tensors are not where it looks for them" if report["missing_keys"] else ""
    except Exception as error:  # of any kind, for a form that only Cutaway reads
        problem = next(iter(str(error).strip().splitlines()), type(error).__name__)
    finally:
        logging.set_verbosity(verbosity)
    if problem:
        print(f"transformers does not open {checkpoint}: logits are not compared with it ({problem})", file=sys.stderr)
        return None
    return reference.train(False).to(loaded.device)
