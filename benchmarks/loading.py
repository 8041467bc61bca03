"""Loading a checkpoint and one forward pass of 16 tokens, in a new process, imports apart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import models
from benchmarks.timing import Row, cost, faster

# Each is run with `folder` and `ids` defined: the imports, then the work that is measured.
SIDES = {
    "ours": ("import cutaway.model.model", "cutaway.load(folder).run(ids, logits='last')"),
    "transformers": (
        "from transformers import GPT2LMHeadModel",
        "GPT2LMHeadModel.from_pretrained(folder)(ids, logits_to_keep=1)",
    ),
    "TransformerBridge": (
        "from transformer_lens.model_bridge import TransformerBridge; from transformers import GPT2LMHeadModel",
        "TransformerBridge.boot_transformers("
        "folder, device='cpu', hf_model=GPT2LMHeadModel.from_pretrained(folder))(ids)",
    ),
}
SCRIPT = """
import sys, threading, time, torch
{imports}
torch.set_grad_enabled(False)
folder, ids = sys.argv[1], torch.arange(16)[None]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

before, peak, done = resident(), [0.0], threading.Event()

def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], resident())

watcher = threading.Thread(target=watch)
watcher.start()
start = time.perf_counter()
kept = {work}
seconds = time.perf_counter() - start
done.set()
watcher.join()
print(seconds, max(peak[0], resident()) - before)
"""


def rows(rounds: int) -> Iterator[Row]:
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    megabytes: dict[str, list[float]] = {name: [] for name in SIDES}
    with TemporaryDirectory() as temporary:
        folder = models.write(Path(temporary))
        for _ in range(rounds):
            for name in SIDES:
                taken, grown = measure(name, folder)
                seconds[name].append(taken)
                megabytes[name].append(grown)
        file = (folder / "model.safetensors").stat().st_size / 1e6
    for peer in ("transformers", "TransformerBridge"):
        yield faster("load and run GPT-2 small", seconds, "ours", peer)
        yield cost("memory to load and run it, above the imports", megabytes, "ours", peer, unit="MB")
    sides = {"ours": megabytes["ours"], "the file": [file] * rounds}
    yield cost("memory to load and run it, above the imports", sides, "ours", "the file", goal=1.1, unit="MB")


def measure(name: str, folder: Path) -> tuple[float, float]:
    """Seconds, and megabytes of resident memory at the highest above what the imports took."""
    imports, work = SIDES[name]
    script = SCRIPT.format(imports=imports, work=work)
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"loading with {name} failed:\n{done.stderr}")
    taken, grown = done.stdout.split()[-2:]
    return float(taken), float(grown)
