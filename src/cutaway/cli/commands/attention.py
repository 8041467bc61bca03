"""`cutaway attention`: show where each head looks."""

from __future__ import annotations

from cutaway.cli.inputs import check_state, exactly_one, load, read_corpus, read_text
from cutaway.cli.options import (
    BosOption,
    CorpusInsteadOption,
    DeviceOption,
    DtypeOption,
    FieldOption,
    JsonOption,
    ModelOption,
    OptionalTextArgument,
    OutputOption,
    SeedOption,
    StateOption,
)
from cutaway.cli.output import show


def attention(
    text: OptionalTextArgument = None,
    model: ModelOption = None,
    corpus: CorpusInsteadOption = None,
    field: FieldOption = None,
    seed: SeedOption = 0,
    state: StateOption = None,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Show where each head looks, and score what kind of head it is."""
    from cutaway.analyses import attention as analysis

    exactly_one("attention", text, corpus)
    check_state(state, corpus)
    source = read_corpus(corpus, field)
    loaded = load(model, device, dtype)
    if source is None:
        show(analysis.read(loaded, read_text(text or ""), seed=seed, bos=bos), as_json, output)
    else:
        show(analysis.average(loaded, source, seed=seed, bos=bos, state=state), as_json, output)
