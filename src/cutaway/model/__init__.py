"""Load a model, run it, and capture or edit what happens inside.

model = load()                                    the bundled model; or a name, a folder, a transformers model
run = model.run("some text", capture=["attn_out"])
trunk = Trunk(model, model.tokens("some text"))   runs that branch off a finished one
"""

from __future__ import annotations

from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.model.taps.captures import Run
from cutaway.model.trunk import Trunk

__all__ = ["Model", "Run", "Trunk", "load"]
