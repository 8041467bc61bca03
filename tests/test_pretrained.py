"""What is known of the real gpt2 and gpt2-xl. Skips, saying why, where neither a hub nor its cache has them."""

import pytest
import torch
from huggingface_hub import constants

import cutaway
from cutaway.errors import CheckpointError

pytestmark = pytest.mark.pretrained
SPORTS = {
    "Shaquille O'Neal plays the sport of": (" basketball", 0.546),
    "Megan Rapinoe plays the sport of": (" soccer", 0.768),
}


def pretrained(name):
    """The model and its hub id: from the cache under the name's old or new spelling, or else from the hub."""
    for repo, offline in ((f"openai-community/{name}", True), (name, True), (name, constants.HF_HUB_OFFLINE)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "HF_HUB_OFFLINE", offline)
            try:
                return cutaway.load(repo, device="cpu"), repo
            except CheckpointError as error:
                reason = str(error)
    pytest.skip(f"no pretrained weights: {reason}")


@pytest.fixture(scope="module")
def small():
    return pretrained("gpt2")


@pytest.fixture(scope="module")
def xl():
    return pretrained("gpt2-xl")


def sizes(model):
    c = model.config
    return c.n_layers, c.n_heads, c.d_model, c.d_head, c.d_mlp, c.d_vocab, c.n_ctx, c.activation, c.eps


def test_gpt2_s_sizes(small):
    model, _ = small
    assert sizes(model) == (12, 12, 768, 64, 3072, 50257, 1024, "gelu_new", 1e-5)
    assert model.tied
    assert model.n_parameters == 124_439_808
    folded = model.fold(layer_norm=True)
    assert folded.n_parameters == 163_049_041
    matrices = [t for name, t in folded.parameters().items() if name.startswith("blocks") and t.dim() == 2]
    assert sum(t.numel() for t in matrices) == 84_934_656


def test_gpt2_s_tokens(small):
    model, _ = small
    ids = [50256, 15354, 257, 1573, 4123, 654, 351, 257, 3139, 393, 2272, 6067, 0]
    assert model.tokens("Whether a word begings with a capital or space matters!", bos=True).rows() == [ids]
    assert model.tokens(["Aritra", " Aritra"]).strings == [["A", "rit", "ra"], [" A", "rit", "ra"]]
    assert [model.tokenizer.vocabulary[i] for i in (0, 50254, 50255, 50256)] == [
        "!",
        "Ġinformants",
        "Ġgazed",
        "<|endoftext|>",
    ]


def test_gpt2_s_numbers_are_transformers(small):
    from transformers import GPT2LMHeadModel

    model, repo = small
    reference = GPT2LMHeadModel.from_pretrained(repo, dtype=torch.float32, attn_implementation="eager").eval()
    result = cutaway.verify(model, reference, text="The Eiffel Tower is in the city of Paris, and " * 20)
    assert result.holds, result.summary()
    assert result.items[0].claim == "the head is the embedding matrix itself (tied)"


def test_gpt2_s_folded_model_says_the_same(small):
    model, _ = small
    folded = model.fold(layer_norm=True, center_unembed=True, center_writing=True, value_biases=True)
    text = "The Eiffel Tower is in the city of"
    want, got = (m.run(text, bos=True).logits.log_softmax(-1) for m in (model, folded))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


def test_gpt2_xl_s_sizes(xl):
    model, _ = xl
    assert sizes(model) == (48, 25, 1600, 64, 6400, 50257, 1024, "gelu_new", 1e-5)


def test_gpt2_xl_knows_its_sports(xl):
    """The probabilities are others' measurements, of one padded batch."""
    model, _ = xl
    table = model.predict(list(SPORTS), top=1).table()
    for row, (token, probability) in zip(table.itertuples(), SPORTS.values(), strict=True):
        assert row.token == token
        assert row.probability == pytest.approx(probability, abs=0.03)
