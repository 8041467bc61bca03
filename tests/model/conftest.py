import pytest

import cutaway
from tests.model.reference import ALL, KINDS, ODD, TOKENS, random_gpt2


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


@pytest.fixture(scope="session")
def small(saved):
    """GPT-2 small's real size: transformers' and ours."""
    model = random_gpt2(seed=1)
    return model, cutaway.load(saved(model), device="cpu")


@pytest.fixture(scope="session")
def plain(odd):
    """A run of the odd model with every site captured."""
    return odd.run(TOKENS, capture=ALL)


@pytest.fixture(scope="session")
def bare(odd):
    """The logits of a run that nothing else is asked of."""
    return odd.run(TOKENS).logits


@pytest.fixture(params=KINDS, ids=[site.kind for site in KINDS])
def site(request):
    return request.param
