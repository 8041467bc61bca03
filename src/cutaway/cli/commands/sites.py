"""`cutaway sites`: list where tensors can be captured or edited."""

from __future__ import annotations

from typing import Annotated

import typer

from cutaway.cli.inputs import load
from cutaway.cli.options import DataOption, JsonOption, ModelOption
from cutaway.cli.output import print_json, print_path, print_table


def sites(
    pattern: Annotated[
        str, typer.Argument(help="Only the sites that match this pattern, such as 'blocks.0.attn.*'.")
    ] = "",
    model: ModelOption = None,
    as_json: JsonOption = False,
    output: DataOption = None,
) -> None:
    """List every place where a tensor can be captured or edited, with its shape and its other names."""
    from cutaway.results.call import describe
    from cutaway.results.saving import envelope, save_table

    loaded = load(model, "cpu", None)
    every = loaded.sites()
    table = every.table()
    if pattern:
        table = table[table["name"].isin([site.name for site in every.match(pattern)])]
    meta = describe(loaded, "sites", None) | {"call": "model.sites()"}
    if output:
        save_table(output, table, lambda: envelope("sites", meta, table))
        print_path(output)
    elif as_json:
        print_json(envelope("sites", meta, table))
    elif pattern:
        columns = ["name", "shape", "transformer_lens", "hugging_face", "meaning"]
        print_table(columns, table[columns].fillna("").itertuples(index=False))
    else:
        print(every)
