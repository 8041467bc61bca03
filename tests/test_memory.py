"""Memory: weights stay mapped from the file where they are in the compute dtype, and are copied once where not."""

import json
import os
import platform
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from cutaway.model.architectures.gpt2_config import Config
from cutaway.model.checkpoints.state_dict import expected_shapes
from tests.patience import LONG

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")]
SHAPE = {"model_type": "gpt2", "n_embd": 1024, "n_head": 16, "vocab_size": 50257, "n_positions": 64}
MEASURE = """
import re, sys, torch
torch.set_num_threads(2)

def held():  # bytes: resident now, at most, and not mapped from a file
    status = open("/proc/self/status").read()
    return [1024 * int(re.search(key + r":\\s+(\\d+)", status)[1]) for key in ("VmRSS", "VmHWM", "RssAnon")]

before = held()
import cutaway
model = cutaway.load(sys.argv[1], device="cpu", dtype="float32")
model.run(torch.arange(32)[None])
print(*(now - then for now, then in zip(held(), before)))
"""


@pytest.fixture
def folder(tmp_path):
    """One that is not kept: these files are large."""
    yield tmp_path / "m"
    shutil.rmtree(tmp_path / "m")


def write(folder, dtype, n_layer, form="safetensors"):
    """A checkpoint without a tokenizer; the size of its weights in bytes."""
    folder.mkdir()
    shape = SHAPE | {"n_layer": n_layer}
    (folder / "config.json").write_text(json.dumps(shape))
    shapes = expected_shapes(Config.from_hf(shape))
    tensors = {name: torch.full(shape, 0.01, dtype=dtype) for name, shape in shapes.items()}
    path = folder / ("model.safetensors" if form == "safetensors" else "pytorch_model.bin")
    save_file(tensors, path) if form == "safetensors" else torch.save(tensors, path)
    return path.stat().st_size


def grown(folder):
    """By how many bytes a process that has imported torch grows, in float32: in the end, at most, and of its own."""
    command = [sys.executable, "-c", MEASURE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LONG)
    return map(int, done.stdout.split())


def test_weights_in_the_compute_dtype_stay_in_the_file(folder):
    """Half a gigabyte, as GPT-2 small's: what any process needs beside its weights counts for little."""
    size = write(folder, torch.float32, n_layer=6)
    resident, peak, own = grown(folder)
    assert resident < 1.1 * size, f"{resident:,} bytes resident for a file of {size:,}"
    assert peak < 1.15 * size, f"{peak:,} bytes at most for a file of {size:,}"
    assert own < 0.1 * size, f"{own:,} bytes are not mapped from the file of {size:,}"


@pytest.mark.parametrize(("form", "most"), [("safetensors", 3), ("bin", 2.7)])
def test_converted_weights_are_held_once(folder, form, most):
    """Twice the half-precision file in the end; on the way its mapped pages besides, or one tensor at a time."""
    size = write(folder, torch.float16, n_layer=2, form=form)
    resident, peak, _ = grown(folder)
    beside = 40e6
    assert resident < 2 * size + beside, f"{resident:,} bytes resident for a file of {size:,}"
    assert peak < most * size + beside, f"{peak:,} bytes at most for a file of {size:,}"


FAULTS = """
import resource, torch, cutaway
cutaway.load(device="cpu")

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(3):
    torch.zeros(2**24)
before = faults()
for _ in range(5):
    torch.zeros(2**24)  # 64 MiB: more than glibc keeps of itself
print((faults() - before) * resource.getpagesize() / 2**26)
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="tunes glibc's allocator")
def test_freed_memory_is_used_again_unless_the_allocator_is_the_users():
    def paged(**extra):
        """How many times over the tensor's pages were asked for."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}
        done = subprocess.run(
            [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=clean | extra, timeout=LONG
        )
        return float(done.stdout)

    assert paged() < 1
    assert paged(MALLOC_TRIM_THRESHOLD_="131072") > 4
