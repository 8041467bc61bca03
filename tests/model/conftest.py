import pytest

import cutaway
from tests.model.reference import ODD, random_gpt2


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Save a transformers model in a folder of its own, and give the folder."""

    def save(model):
        folder = tmp_path_factory.mktemp("checkpoint")
        model.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def odd_gpt2():
    """transformers' model of odd sizes."""
    return random_gpt2(**ODD)


@pytest.fixture(scope="session")
def odd_folder(odd_gpt2, saved):
    return saved(odd_gpt2)


@pytest.fixture(scope="session")
def odd(odd_folder):
    """The same model, ours; it has no tokenizer."""
    return cutaway.load(odd_folder, device="cpu")
