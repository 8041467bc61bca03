"""anatomy.read and anatomy.tokens beside transformers and the tokenizers library."""

import pytest
import tokenizers

from cutaway import anatomy
from cutaway.errors import InputError, TokenizerError
from cutaway.model.checkpoints.checkpoint import bundled_folder

TEXT = "The caf\u00e9's \u6771\u4eac \U0001f600\n\n\tend"


def test_parameters_by_part_sum_to_transformers_count(bundled, hf):
    result = anatomy.read(bundled)
    table = result.table()
    sizes = {name: tensor.numel() for name, tensor in hf().named_parameters()}  # a tied head is counted once
    assert table["parameters"].sum() == sum(sizes.values())
    by_part = dict(zip(table["part"], table["parameters"], strict=True))
    assert by_part["token embedding"] == sizes["transformer.wte.weight"]
    assert by_part["MLP"] == sum(n for name, n in sizes.items() if ".mlp." in name)
    assert by_part["attention"] == sum(n for name, n in sizes.items() if ".attn." in name)
    assert by_part["LayerNorms"] == sum(n for name, n in sizes.items() if ".ln_" in name)
    assert by_part["unembedding"] == 0
    assert table["share"].sum() == pytest.approx(1)


def test_the_summary_is_what_the_model_prints_and_fits_a_screen(bundled):
    result = anatomy.read(bundled)
    assert result.summary() == str(bundled)
    assert len(result.summary().splitlines()) <= 24
    assert max(map(len, result.summary().splitlines())) <= 80
    assert dict(result.facts()) == {"parameters": "5,387,776", "layers × heads": "4 × 8", "vocabulary": "8,192"}


def test_an_untied_model_without_a_tokenizer_has_an_anatomy(wordless):
    ours, theirs = wordless
    result = anatomy.read(ours)
    assert result.table()["parameters"].sum() == sum(p.numel() for p in theirs.parameters())
    assert result.table().set_index("part")["parameters"]["unembedding"] == theirs.lm_head.weight.numel()
    assert "none: runs on token ids only" in result.summary()


@pytest.mark.parametrize("bos", [False, True])
def test_tokens_are_the_tokenizers_librarys(bundled, bos):
    encoding = tokenizers.Tokenizer.from_file(str(bundled_folder() / "tokenizer.json")).encode(TEXT)
    table = anatomy.tokens(bundled, TEXT, bos=bos).table()
    assert list(table.columns) == ["position", "token_id", "token", "display", "start", "end"]
    if bos:
        assert table.iloc[0].tolist() == [0, bundled.tokenizer.end_of_text, "<|endoftext|>", "<|endoftext|>", 0, 0]
        table = table.iloc[1:]
    assert table["token_id"].tolist() == encoding.ids
    assert table["end"].iloc[-1] == len(TEXT)
    for row in table.itertuples():
        piece = TEXT[row.start : row.end]
        assert row.token == piece or "\ufffd" in row.token  # bytes of a character that several tokens share


def test_tokens_counts_characters_and_shows_every_piece(bundled):
    result = anatomy.tokens(bundled, "The people\n")
    assert result.summary() == "3 tokens, 11 characters (3.67 a token)\nThe | ·people | ↵"


def test_a_text_may_be_longer_than_the_context(bundled):
    assert len(anatomy.tokens(bundled, "the people " * 600).ids) > bundled.config.n_ctx


def test_the_first_tokens_of_a_text_are_that_text(bundled):
    cut = bundled.tokenizer.tokens("The people of the United States").first(3)
    result = anatomy.tokens(bundled, cut)
    assert result.text == "The people of"
    assert result.tokens == ["The", " people", " of"]


def test_mistakes_are_named(bundled, wordless):
    with pytest.raises(InputError, match=r"anatomy\.tokens reads one text that is not empty"):
        anatomy.tokens(bundled, "")
    with pytest.raises(InputError, match=r"anatomy\.tokens reads one text"):
        anatomy.tokens(bundled, bundled.tokenizer.tokens(["a", "b"]))
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        anatomy.tokens(wordless[0], "a")
