"""Commands on a text: predict, lens, attention, ablate, attribute, trace, generate, tokens."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cutaway.cli.inputs import corpus_of, exactly_one, load, text_of
from cutaway.cli.options import (
    SEED,
    BosOption,
    DeviceOption,
    DtypeOption,
    FieldOption,
    JsonOption,
    ModelOption,
    OptionalTextArgument,
    OutputOption,
    PromptsArgument,
    TextArgument,
    TopOption,
)
from cutaway.cli.output import kept, print_json, print_table, show
from cutaway.errors import InputError


def predict(
    prompts: PromptsArgument,
    model: ModelOption = None,
    top: TopOption = 10,
    along: Annotated[bool, typer.Option("--along", help="Predict at every prefix of one text.")] = False,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """The most likely next tokens after each prompt, or all along a text."""
    if along and len(prompts) > 1:
        raise InputError(f"{len(prompts)} texts were given: --along reads one")
    from cutaway.analyses import predictions

    loaded, texts = load(model, device, dtype), [text_of(prompt) for prompt in prompts]
    if along:
        show(predictions.along(loaded, texts[0], top=top, bos=bos), as_json, output)
    else:
        show(predictions.next_tokens(loaded, texts, top=top, bos=bos), as_json, output)


def lens(
    text: OptionalTextArgument = None,
    model: ModelOption = None,
    at: Annotated[
        str, typer.Option(help="resid_post, resid_mid, resid_pre, attn_out, mlp_out, or a pattern.")
    ] = "resid_post",
    target: Annotated[list[str] | None, typer.Option(help="Follow this token through the layers; repeatable.")] = None,
    corpus: Annotated[
        list[str] | None, typer.Option(help="Means over text files, folders or quoted globs instead; repeatable.")
    ] = None,
    field: FieldOption = None,
    top: TopOption = 10,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """The logit lens: what the model would say at each layer."""
    from cutaway.analyses import logit_lens

    exactly_one("lens", text, corpus)
    source = corpus_of(corpus, field)
    loaded = load(model, device, dtype)
    if source is None:
        show(logit_lens.read(loaded, text_of(text or ""), at, top, target, bos=bos), as_json, output)
    else:
        show(logit_lens.average(loaded, source, at, bos=bos), as_json, output)


def attention(
    text: OptionalTextArgument = None,
    model: ModelOption = None,
    corpus: Annotated[
        list[str] | None, typer.Option(help="Scores over text files, folders or quoted globs instead; repeatable.")
    ] = None,
    field: FieldOption = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal random tokens and intervals.", **SEED)] = 0,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Where each head looks: patterns, and what kind of head it is."""
    from cutaway.analyses import attention as heads

    exactly_one("attention", text, corpus)
    source = corpus_of(corpus, field)
    loaded = load(model, device, dtype)
    if source is None:
        show(heads.read(loaded, text_of(text or ""), seed=seed, bos=bos), as_json, output)
    else:
        show(heads.average(loaded, source, seed=seed, bos=bos), as_json, output)


def ablate(
    text: OptionalTextArgument = None,
    model: ModelOption = None,
    corpus: Annotated[
        list[str] | None, typer.Option(help="Text files, folders or quoted globs instead; repeatable.")
    ] = None,
    field: FieldOption = None,
    components: Annotated[
        list[str] | None,
        typer.Option(help="heads, mlps, layers, or a pattern of sites; repeatable.", show_default="heads and mlps"),
    ] = None,
    how: Annotated[str, typer.Option(help="Replace by zero, mean, or resample (another text's values).")] = "mean",
    metric: Annotated[list[str] | None, typer.Option(help="Beside the loss: kl, accuracy or rank; repeatable.")] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(help="Files that means and other texts come from; repeatable.", show_default="own"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal other texts and intervals.", **SEED)] = 0,
    budget: Annotated[int, typer.Option(help="Megabytes for what runs side by side.", min=1)] = 256,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """What breaks without it: the loss with each head, MLP, layer or site replaced."""
    from cutaway.analyses import ablation

    exactly_one("ablate", text, corpus)
    named = field if corpus or not reference else None  # --reference has fields, too
    source, other = corpus_of(corpus, named), corpus_of(reference, field) if reference else None
    loaded = load(model, device, dtype)
    with kept(as_json, output):
        found = ablation.run(
            loaded,
            text_of(text or "") if source is None else source,
            components or ("heads", "mlps"),
            how,  # type: ignore[arg-type]  # what is none of them is named
            metric,
            reference=other,
            seed=seed,
            budget=budget << 20,
            bos=bos,
        )
    show(found, as_json, output)


def attribute(
    text: TextArgument,
    model: ModelOption = None,
    target: Annotated[str | None, typer.Option(help="A single token.", show_default="the model's first choice")] = None,
    versus: Annotated[str | None, typer.Option(help="Explain the target's logit less this token's.")] = None,
    how: Annotated[str, typer.Option(help="direct, gradient or integrated.")] = "direct",
    position: Annotated[int, typer.Option(help="After which token; negative from the end.")] = -1,
    neurons: Annotated[int | None, typer.Option(help="Of direct: also so many single neurons.", min=1)] = None,
    site: Annotated[
        str | None, typer.Option(help="Of gradient: a pattern of sites.", show_default="resid_post")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Of integrated: points on the path.", show_default="64", min=1, max=1000)
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Of integrated: zero or mean.", show_default="zero")] = None,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Which components, or which tokens, an answer comes from."""
    options: dict[str, dict[str, Any]] = {
        "direct": {"neurons": neurons},
        "gradient": {"sites": site},
        "integrated": {"steps": steps, "baseline": baseline},
    }
    if how not in options:
        raise InputError(f"--how {how} is unknown: direct, gradient or integrated was expected")
    others = [(owner, *item) for owner in options if owner != how for item in options[owner].items()]
    for owner, name, value in others:
        if value is not None:
            flag = "site" if name == "sites" else name
            raise InputError(f"--{flag} is for --how {owner}: --how {how} was given")
    from cutaway.analyses import attribution

    loaded = load(model, device, dtype)
    given = {name: value for name, value in options[how].items() if value is not None}
    made = getattr(attribution, how)(loaded, text_of(text), target, versus, position=position, bos=bos, **given)
    show(made, as_json, output)


def trace(
    prompt: TextArgument,
    subject: Annotated[str, typer.Option(help="Words of the prompt that noise shall hide.")],
    model: ModelOption = None,
    answer: Annotated[
        str | None, typer.Option(help="What follows, such as ' States'.", show_default="the model's first choice")
    ] = None,
    occurrence: Annotated[
        int | None, typer.Option(help="Which one, where the words are there again: 0, 1, ...")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="resid_post, mlp_out, attn_out; repeatable.", show_default="all three")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Layers of mlp_out and attn_out at once.", show_default="10 of 48")
    ] = None,
    noise: Annotated[float, typer.Option(help="In standard deviations of the embeddings of --noise-from.")] = 3.0,
    noise_from: Annotated[
        list[str] | None, typer.Option(help="A subject; repeatable.", show_default="the subject itself")
    ] = None,
    uniform: Annotated[bool, typer.Option("--uniform", help="Uniform noise, not Gaussian.")] = False,
    samples: Annotated[int, typer.Option(help="Draws of the noise.", min=1, max=10_000)] = 10,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal noise.", **SEED)] = 0,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Causal tracing: which states bring the answer back when the subject is hidden."""
    from cutaway.analyses import causal_trace

    loaded = load(model, device, dtype)
    with kept(as_json, output):
        found = causal_trace.trace(
            loaded,
            text_of(prompt),
            subject,
            answer,
            kind or causal_trace.KINDS,
            window,
            noise,
            samples,
            seed,
            noise_from or None,
            distribution="uniform" if uniform else "gaussian",
            occurrence=occurrence,
            bos=bos,
        )
    show(found, as_json, output)


def generate(
    prompts: PromptsArgument,
    model: ModelOption = None,
    tokens: Annotated[int, typer.Option("-n", "--max-new-tokens", help="How many tokens to add at most.", min=1)] = 40,
    temperature: Annotated[float, typer.Option(help="0 takes the most likely token at each step.", min=0)] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Choose among this many most likely tokens.", min=1)] = None,
    top_p: Annotated[float | None, typer.Option(help="Choose among tokens that reach this probability.")] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal texts.", **SEED)] = 0,
    bos: BosOption = False,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
) -> None:
    """Continue each prompt."""
    texts = [text_of(prompt) for prompt in prompts]
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "bos": bos}
    loaded = load(model, device, dtype)
    made = loaded.generate(texts, tokens, **settings)
    if not as_json:
        print(made)
        return
    import pandas as pd

    from cutaway.results.call import describe
    from cutaway.results.saving import envelope

    meta = describe(loaded, "generate", texts, max_new_tokens=tokens, **settings)
    meta["call"] = meta["call"].replace("cutaway.generate(model, ", "model.generate(")
    table = pd.DataFrame({"prompt": texts, "continuation": made.continuations, "text": made.texts})
    print_json(envelope("generate", meta, table))


def tokens(
    text: TextArgument,
    model: ModelOption = None,
    bos: BosOption = False,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> None:
    """A text as the model's tokens: ids, pieces and characters."""
    from cutaway.analyses import anatomy

    result = anatomy.tokens(load(model, "cpu", None), text_of(text), bos=bos)
    if as_json or output:
        show(result, as_json, output)
        return
    columns = ["position", "token_id", "display", "start", "end"]
    print_table(columns, result.table()[columns].itertuples(index=False))
