"""Trains a small GPT-2 from scratch on a folder of text, and writes it as a Hugging Face folder.

    python training/train.py --documents package/data --out sotu                  the bundled model's recipe
    python training/train.py ... --steps 1606                                     for as long as it was trained
    python training/train.py ... --dropout 0.1 --epochs 40 --dtype bfloat16       on a GPU

The forward pass is Cutaway's own (cutaway.model.architectures.gpt2), and dropout is edits at its sites. README.md
beside this file explains the recipe; documents.py prepares the text, muon.py is the optimizer of the matrices.

Initialization: Radford et al. 2019, Language Models are Unsupervised Multitask Learners; section 2.3.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import documents as text
import numpy as np
import torch
import torch.nn.functional as F
from muon import Muon
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import save_file
from torch import Tensor

from cutaway.errors import InputError
from cutaway.files import replacing, write_text
from cutaway.model.architectures import gpt2
from cutaway.model.architectures.gpt2 import SITES, Weights
from cutaway.model.architectures.gpt2_config import Config
from cutaway.model.checkpoints.checkpoint import bundled_folder
from cutaway.model.checkpoints.state_dict import expected_shapes
from cutaway.model.passes import forward
from cutaway.model.taps.sites import Sites
from cutaway.model.taps.tap import Context, Edit, Tap
from cutaway.model.weights.parameters import assemble
from cutaway.text.tokens import END_OF_TEXT

WARM_UP = 100  # steps; a tenth of a run shorter than 1,000
CONSTANT = 0.4  # of the run, before the learning rates fall
LAST_RATE = 0.02  # what they fall to
AVERAGE = 0.99  # decay of the weights' moving average, a step
LINE_EVERY = 10  # steps; reading the loss waits for the GPU
MATRICES = {"attn.c_attn.weight": 3, "attn.c_proj.weight": 1, "mlp.c_fc.weight": 1, "mlp.c_proj.weight": 1}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a small GPT-2 from scratch on a folder of text; see training/README.md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--documents", type=Path, required=True, metavar="DIR", help="folder of *.txt, one document each")
    add("--out", type=Path, required=True, metavar="FOLDER", help="the folder to write; must not exist yet")
    add("--layers", type=int, default=4, metavar="N", help="blocks")
    add("--heads", type=int, default=8, metavar="N", help="attention heads of a block")
    add("--width", type=int, default=256, metavar="N", help="of the residual stream; the MLP's is 4 times this")
    add("--context", type=int, default=512, metavar="N", help="tokens of a window, and of the longest input")
    add("--vocab", type=int, default=8192, metavar="N", help="entries of the tokenizer, the end of text among them")
    add("--batch", type=int, default=8, metavar="N", help="windows of a step")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=float, default=3.0, metavar="X", help="how long to train")
    length.add_argument("--steps", type=int, metavar="N", help="the same in steps")
    length.add_argument("--minutes", type=float, metavar="X", help="the same in minutes")
    add("--dropout", type=float, default=0.0, metavar="P", help="0.1 for more than a few epochs")
    add("--lr-muon", type=float, default=0.02, metavar="X", help="for the blocks' matrices")
    add("--lr-adam", type=float, default=2e-3, metavar="X", help="for everything else")
    add("--hold-out", type=int, default=10, metavar="N", help="documents never trained on")
    add("--evaluate-every", type=int, default=200, metavar="N", help="steps between held-out losses")
    add("--patience", type=int, default=3, metavar="N", help="stop after N held-out losses without a new best")
    add("--seed", type=int, default=0, metavar="N", help="of weights, order of documents and dropout")
    add("--device", default="auto", help="cpu, cuda, ...; auto takes CUDA where there is one")
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the products; weights are float32")
    args = parser.parse_args(argv)
    if problem := wrong(args):
        parser.error(problem)
    if args.steps or args.minutes:
        args.epochs = None
    return args


def wrong(args: argparse.Namespace) -> str | None:
    """What about the arguments cannot be, in one line."""
    for name in ("layers", "heads", "width", "context", "batch", "hold_out", "evaluate_every", "patience"):
        if getattr(args, name) < 1:
            return f"--{name.replace('_', '-')} {getattr(args, name)}: at least 1 was expected"
    if args.width % args.heads:
        return f"--width {args.width} is not a multiple of --heads {args.heads}"
    if args.vocab < text.SMALLEST_VOCABULARY:
        return f"--vocab {args.vocab}: at least {text.SMALLEST_VOCABULARY} was expected, all bytes and the end of text"
    if not all(length is None or length > 0 for length in (args.epochs, args.steps, args.minutes)):
        return "--epochs, --steps or --minutes: more than 0 was expected"
    if not 0 <= args.dropout < 1:
        return f"--dropout {args.dropout}: 0 or more and less than 1 was expected"
    if args.out.exists():
        return f"--out {args.out} is there already: name a folder to be made"
    if (found := len(list(args.documents.glob("*.txt")))) <= args.hold_out:
        return f"--documents {args.documents} has {found} *.txt: more than the {args.hold_out} held out were expected"
    return None


# --- the model ---


def initial(config: Config, seed: int, device: torch.device) -> dict[str, Tensor]:
    """Weights as GPT-2 starts, float32, by the names of a checkpoint.

    Normal of standard deviation 0.02; what a block writes to the residual stream is divided by the root of the number
    of such writes, 2 a layer; biases 0, LayerNorms 1.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = {}
    for name, shape in expected_shapes(config).items():
        if name.endswith(".bias"):
            value = torch.zeros(shape)
        elif "ln_" in name:
            value = torch.ones(shape)
        else:
            writes = math.sqrt(2 * config.n_layers) if name.endswith("c_proj.weight") else 1.0
            value = torch.randn(shape, generator=generator) * (0.02 / writes)
        parameters[name] = value.to(device).requires_grad_()
    return parameters


def as_weights(parameters: Mapping[str, Tensor], config: Config) -> Weights:
    """The forward's view of the parameters: these very tensors, so it stays true while they are trained in place."""
    return assemble(gpt2, config, parameters.__getitem__)


def optimizers(parameters: Mapping[str, Tensor], lr_muon: float, lr_adam: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW without decay for embeddings, biases and LayerNorms."""
    fused: dict[int, list[Tensor]] = {1: [], 3: []}
    rest = []
    for name, value in parameters.items():
        parts = MATRICES.get(name.split(".", 2)[-1])  # behind `h.i.`
        (rest if parts is None else fused[parts]).append(value)
    muon = Muon([{"params": values, "parts": parts} for parts, values in fused.items()], lr=lr_muon)
    return [muon, torch.optim.AdamW(rest, lr=lr_adam, betas=(0.9, 0.95), weight_decay=0.0)]


def dropout_edits(config: Config, p: float) -> dict[Any, list[Edit]]:
    """GPT-2's dropout as edits: the embeddings' sum, and what attention and MLP add to the stream.

    Dropout of attention probabilities is left out: it would rule out the fused attention kernel.
    """

    def drop(value: Tensor, context: Context) -> Tensor:  # noqa: ARG001 - what an edit function is given
        return F.dropout(value, p)

    patterns = ("blocks.0.resid_pre", "attn_out", "mlp_out") if p else ()
    sites = Sites(SITES, config)
    return {site: [drop] for pattern in patterns for site in sites.match(pattern)}


def loss_of(weights: Weights, config: Config, batch: Tensor, edits: Mapping[Any, Sequence[Edit]]) -> Tensor:
    """Mean cross-entropy, nats a token, of windows [batch, context + 1]."""
    ids, targets = batch[:, :-1], batch[:, 1:]  # B P
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)  # B P
    tap = Tap(edits=edits, tokens=ids, mask=torch.ones_like(ids), positions=positions)
    logits = forward(weights, config, ids, tap)  # B P V
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Average:
    """The exponential moving average of the weights.

    It looks back over a tenth of the steps made, so that where training began is soon forgotten, until that is 100.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = parameters
        self.values = {name: value.detach().clone() for name, value in parameters.items()}
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        share = max(1 - AVERAGE, 10 / (10 + self.steps))
        for name, value in self.values.items():
            value.lerp_(self.parameters[name], share)

    def on_cpu(self) -> dict[str, Tensor]:
        """A copy as it stands."""
        return {name: value.to("cpu", copy=True) for name, value in self.values.items()}


# --- the run ---


@dataclass(frozen=True)
class Plan:
    """How long a run lasts: in steps, or in seconds."""

    steps: int | None
    seconds: float = math.inf

    @classmethod
    def of(cls, args: argparse.Namespace, steps_an_epoch: float) -> Plan:
        if args.minutes is not None:
            return cls(None, 60 * args.minutes)
        return cls(args.steps or math.ceil(args.epochs * steps_an_epoch))

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is behind us: 0 to 1."""
        return min(step / self.steps if self.steps else seconds / self.seconds, 1.0)

    def rate(self, step: int, progress: float) -> float:
        """What the learning rates are multiplied by: linear warm-up, constant, then linear down to 2%."""
        warm_up = WARM_UP if self.steps is None else min(WARM_UP, math.ceil(self.steps / 10))
        falling = max(0.0, progress - CONSTANT) / (1 - CONSTANT)
        return min((step + 1) / warm_up, 1 - (1 - LAST_RATE) * falling)


@dataclass(frozen=True)
class Kept:
    """The averaged weights with the lowest held-out loss of a run."""

    weights: dict[str, Tensor]
    loss: float  # held-out, nats a token
    step: int  # how many steps had been made


class Learner:
    """A model in training: its weights, their moving average, and the optimizers."""

    def __init__(self, args: argparse.Namespace, config: Config, device: torch.device) -> None:
        torch.manual_seed(args.seed)  # dropout
        self.config = config
        self.parameters = initial(config, args.seed, device)
        self.average = Average(self.parameters)
        self.weights, self.averaged = (as_weights(p, config) for p in (self.parameters, self.average.values))
        self.optimizers = optimizers(self.parameters, args.lr_muon, args.lr_adam)
        self.edits = dropout_edits(config, args.dropout)
        self.products = torch.autocast(device.type, torch.bfloat16, enabled=args.dtype == "bfloat16")

    def step(self, batch: Tensor, rate: float) -> Tensor:
        """One step on windows [batch, context + 1], at `rate` of the full learning rates; returns the loss."""
        with self.products:
            loss = loss_of(self.weights, self.config, batch, self.edits)
        loss.backward()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * rate
            optimizer.step()
            optimizer.zero_grad()
        self.average.update()
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, windows: Tensor, size: int) -> float:
        """The averaged weights' mean cross-entropy, nats a token, over windows [windows, context + 1]."""
        with self.products:
            losses = [loss_of(self.averaged, self.config, part, {}) * len(part) for part in windows.split(size)]
        return float(torch.stack(losses).sum() / len(windows))


def train(
    args: argparse.Namespace, learner: Learner, plan: Plan, stream: Iterator[Tensor], held_out: Tensor
) -> Kept | None:
    """Train until the plan is through, the held-out loss has turned, or Ctrl-C. None: stopped before the first one.

    `stream` gives batches [batch, context + 1], `held_out` is windows [windows, context + 1].
    """
    kept: Kept | None = None
    step, since_best, done, start = 0, 0, 0.0, time.monotonic()
    show = Display(args.batch * args.context)
    try:
        with show.bar:
            while done < 1 and since_best < args.patience:
                loss = learner.step(next(stream), plan.rate(step, done))
                step += 1
                done = plan.progress(step, time.monotonic() - start)
                if step % LINE_EVERY == 0 or done == 1:
                    show.loss(step, done, loss.item())
                if step % args.evaluate_every == 0 or done == 1:
                    found = learner.evaluate(held_out, args.batch)
                    show.held_out(step, done, found)
                    since_best += 1
                    if found < (kept.loss if kept else math.inf):  # never where it is NaN
                        kept, since_best = Kept(learner.average.on_cpu(), found, step), 0
    except KeyboardInterrupt:
        say(f"stopped at step {step:,}")
    return kept


class Display:
    """A bar on a terminal, elsewhere a line every so often; on standard error."""

    def __init__(self, tokens_a_step: int) -> None:
        console = Console(stderr=True)
        columns = (BarColumn(), TextColumn("{task.percentage:3.0f}%  {task.description}"), TimeElapsedColumn())
        self.terminal = console.is_terminal
        self.bar = Progress(*columns, console=console, disable=not self.terminal)
        self.task = self.bar.add_task("", total=1.0)
        self.tokens_a_step, self.found = tokens_a_step, ""
        self.since = (0, time.monotonic())  # the speed is measured from this step and time on

    def line(self, text: str, done: float) -> None:
        self.bar.update(self.task, completed=done, description=text)
        if not self.terminal:
            say(f"{done:4.0%}  {text}")

    def loss(self, step: int, done: float, loss: float) -> None:
        before, now = self.since, (step, time.monotonic())
        speed = (now[0] - before[0]) * self.tokens_a_step / (now[1] - before[1])
        self.since = now
        self.line(f"step {step:,}   loss {loss:.3f}{self.found}   {speed:,.0f} tokens/s", done)

    def held_out(self, step: int, done: float, loss: float) -> None:
        self.found = f"   held out {loss:.3f}"
        self.line(f"step {step:,}{self.found}", done)
        self.since = (step, time.monotonic())


# --- the folder ---


def hf_config(config: Config, end_of_text: int, dropout: float) -> dict[str, Any]:
    """config.json: the bundled model's, with these sizes."""
    raw: dict[str, Any] = json.loads((bundled_folder() / "config.json").read_text(encoding="utf-8"))
    del raw["transformers_version"]  # it did not write this one
    sizes = {"n_layer": config.n_layers, "n_head": config.n_heads, "n_embd": config.d_model}
    sizes |= {"n_positions": config.n_ctx, "vocab_size": config.d_vocab}
    ends = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    return raw | sizes | ends | {"embd_pdrop": dropout, "resid_pdrop": dropout}


def write_whole(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder that appears under its name only once all of it is there."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        partial = Path(beside) / folder.name
        partial.mkdir()
        write(partial)
        partial.rename(folder)


def write_model(
    folder: Path, args: argparse.Namespace, config: Config, corpus: text.Corpus, kept: Kept, facts: Mapping[str, Any]
) -> None:
    """What stands beside the bundled model, file for file."""
    halves = {f"transformer.{name}": value.half() for name, value in kept.weights.items()}
    with replacing(folder / "model.safetensors") as file:
        save_file(halves, file, metadata={"format": "pt"})
    raw = hf_config(config, corpus.tokenizer.token_to_id(END_OF_TEXT), args.dropout)
    write_text(folder / "config.json", json.dumps(raw, indent=2, sort_keys=True) + "\n")
    write_text(folder / "training.json", json.dumps(facts) + "\n")
    corpus.tokenizer.save(str(folder / "tokenizer.json"))
    np.save(folder / "train_counts.npy", corpus.counts.numpy())
    (folder / "documents").mkdir()
    for name in corpus.held_out:
        shutil.copyfile(args.documents / name, folder / "documents" / name)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # float32 products in TF32
    start = time.monotonic()

    try:
        corpus = text.prepare(args.documents, args.hold_out, args.vocab)
    except InputError as error:
        raise SystemExit(str(error)) from None
    n_tokens, entries = int(corpus.counts.sum()), len(corpus.counts)
    known, apart = f"{len(corpus.train)} documents, {n_tokens:,} tokens", f"{len(corpus.unseen):,} tokens held out"
    if min(n_tokens // 2, len(corpus.unseen)) <= args.context:
        raise SystemExit(f"{known}, {apart}: at least two windows of {args.context} and one were expected")
    say(f"{known}, {entries:,} entries; {apart}")

    config = Config(args.layers, args.heads, args.width, 4 * args.width, entries, args.context)
    stream = text.batches([ids.to(device) for ids in corpus.train], args.context, args.batch, args.seed)
    a_step = args.batch * args.context
    plan = Plan.of(args, n_tokens / a_step)
    held_out = text.windows(corpus.unseen, args.context).to(device)
    kept = train(args, Learner(args, config, device), plan, stream, held_out)
    if kept is None:
        say("no held-out loss was measured, so nothing is written")
        return 1

    facts = {
        "val_nats_per_token": kept.loss,
        "steps": kept.step,
        "tokens_seen": kept.step * a_step,
        "train_tokens": n_tokens,
        "minutes": round((time.monotonic() - start) / 60, 2),
        "settings": {name: value for name, value in vars(args).items() if name not in ("documents", "out", "device")},
    }
    write_whole(args.out, lambda folder: write_model(folder, args, config, corpus, kept, facts))
    say(f"held out {kept.loss:.3f} nats a token at step {kept.step:,}: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
