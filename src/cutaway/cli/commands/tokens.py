"""`cutaway tokens`: split a text into the model's tokens."""

from __future__ import annotations

from cutaway.cli.inputs import load, read_text
from cutaway.cli.options import BosOption, JsonOption, ModelOption, OutputOption, TextArgument
from cutaway.cli.output import print_table, show


def tokens(
    text: TextArgument,
    model: ModelOption = None,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """Split a text into the model's tokens: ids, pieces and characters."""
    from cutaway.analyses import anatomy

    result = anatomy.tokens(load(model, "cpu", None), read_text(text), bos=bos)
    if as_json or output:
        show(result, as_json, output)
        return
    columns = ["position", "token_id", "display", "start", "end"]
    print_table(columns, result.table()[columns].itertuples(index=False))
