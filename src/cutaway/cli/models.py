"""Commands on a model alone: anatomy, sites, versions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutaway.cli.inputs import load
from cutaway.cli.options import DataOption, DeviceOption, DtypeOption, JsonOption, ModelOption, OutputOption
from cutaway.cli.output import print_json, print_table, show, wrote

if TYPE_CHECKING:
    from cutaway.model.model import Model


def anatomy(
    model: ModelOption = None,
    check: Annotated[
        bool, typer.Option("--verify", help="Measure what should be true: tied head, causality, transformers' logits.")
    ] = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Sizes, parameters by part, tokenizer, dtype and device; or, with --verify, measured facts."""
    from cutaway.analyses import anatomy

    loaded = load(model, device, dtype)
    if not check:
        show(anatomy.read(loaded), as_json, output)
        return
    from cutaway.analyses.verification import verify

    show(verify(loaded, _transformers_model(model, loaded)), as_json, output)


def sites(
    pattern: Annotated[
        str, typer.Argument(help="Only the sites that this pattern names, e.g. 'blocks.0.attn.*'.")
    ] = "",
    model: ModelOption = None,
    as_json: JsonOption = False,
    output: DataOption = None,
) -> None:
    """Every place where a tensor can be captured or edited, with its shape and its names elsewhere."""
    from cutaway.results.call import describe
    from cutaway.results.saving import envelope, save_table

    loaded = load(model, "cpu", None)
    found = loaded.sites()
    table = found.table()
    if pattern:
        table = table[table["name"].isin([site.name for site in found.match(pattern)])]
    meta = describe(loaded, "sites", None) | {"call": "model.sites()"}
    if output:
        save_table(output, table, lambda: envelope("sites", meta, table))
        wrote(output)
    elif as_json:
        print_json(envelope("sites", meta, table))
    elif pattern:
        columns = ["name", "shape", "transformer_lens", "hugging_face", "meaning"]
        print_table(columns, table[columns].fillna("").itertuples(index=False))
    else:
        print(found)


def versions() -> None:
    """What is installed: put this into a report of a problem."""
    from cutaway.versions import show_versions

    print(show_versions())


def _transformers_model(source: str | None, loaded: Model) -> Any:
    """Return the checkpoint in transformers; say so and return None where that cannot open it or is not there."""
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
    given = folder if folder.is_dir() else ALIASES.get(str(source).lower(), source)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)  # its report of names it does not know
    found: Any = None
    try:
        read: Any = GPT2LMHeadModel.from_pretrained
        found, report = read(given, dtype=loaded.dtype, output_loading_info=True)
        problem = "some of its tensors are not where it looks for them" if report["missing_keys"] else ""
    except Exception as error:  # whatever it has against a form that only Cutaway reads
        problem = next(iter(str(error).strip().splitlines()), type(error).__name__)
    finally:
        logging.set_verbosity(verbosity)
    if problem:
        print(f"transformers does not open {given}: logits are not compared with it ({problem})", file=sys.stderr)
        return None
    return found.train(False).to(loaded.device)
