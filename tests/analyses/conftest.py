import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

import cutaway
from cutaway.model.checkpoints.checkpoint import bundled_folder
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


def captured_rows(model, texts, sites):
    """States of documents, read window by window, float64: {site: [n, D]}, and the row of each (document, offset).

    Position 0 of every window is left out.
    """
    parts, rows, context = {site: [] for site in sites}, {}, model.config.n_ctx
    for name, ids in zip(texts, model.tokenizer.encode(list(texts.values()))[0], strict=True):
        for start in range(0, len(ids), context):
            window = ids[start : start + context]
            run = model.run(torch.tensor([window]), capture=sites, logits=None)
            rows |= {(name, start + i): len(rows) + i - 1 for i in range(1, len(window))}
            for site in sites:
                parts[site].append(run[site][0, 1:].double().numpy())
    return {site: np.concatenate(found) for site, found in parts.items()}, rows
