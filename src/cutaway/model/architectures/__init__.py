"""Define the families of models that Cutaway opens, each a forward pass to read from top to bottom.

gpt2.py              GPT-2: embed, attention, MLP and head, one line a site
gpt2_config.py       its sizes and switches, from config.json
gpt2_tables.py       the names of its sites and tensors
architecture.py      Architecture: all that a family has to offer
families.py          from config.json's model_type to the family
sizes.py, activations.py, head_inputs.py      what families share
"""

from __future__ import annotations

from cutaway.model.architectures.architecture import Architecture
from cutaway.model.architectures.families import FAMILIES, architecture_of, read_config
from cutaway.model.architectures.sizes import Sizes

__all__ = ["FAMILIES", "Architecture", "Sizes", "architecture_of", "read_config"]
