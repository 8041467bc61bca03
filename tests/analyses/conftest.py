import pytest
import torch
from transformers import GPT2LMHeadModel

import cutaway
from cutaway.model.checkpoint import bundled_folder
from tests import results


@pytest.fixture(scope="session")
def bundled64():
    """The bundled model in float64."""
    return cutaway.load(device="cpu", dtype="float64")


@pytest.fixture(scope="session")
def hf():
    """The bundled model in transformers: a function from dtype to model."""
    made = {}

    def get(dtype=torch.float32):
        if dtype not in made:
            made[dtype] = GPT2LMHeadModel.from_pretrained(bundled_folder(), dtype=dtype, local_files_only=True).eval()
        return made[dtype]

    return get


@pytest.fixture(scope="session")
def wordless(tmp_path_factory):
    """A model without a tokenizer, ours and transformers'."""
    folder = tmp_path_factory.mktemp("wordless")
    theirs = results.save_wordless(folder)
    return cutaway.load(folder, device="cpu"), theirs
