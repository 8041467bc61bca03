"""Tokenizers from what people have on disk, against transformers' AutoTokenizer on the same folder."""

import json
import pickle
import re

import pytest
import tokenizers
from tokenizers import processors

from cutaway.errors import TokenizerError
from cutaway.tokens import Tokenizer
from tests.test_tokens import VARIED, copy_vocabulary

CONFIG = {"model_type": "gpt2", "vocab_size": 50300, "bos_token_id": 50256, "eos_token_id": 50256}
TEXTS = [
    *VARIED,
    "Hi<|sep|>there",
    "Hi <|sep|> there <|sep|>",
    "<|sep|><|sep|>",
    " <|pad|>[PAD] <s></s> <unk> [UNK][CLS]",
    "hello <|USER|> you<|user|>",
    "newword and newwords, a newword",
    "  Leading and   more ",
    "Zürich 東京 ½ ﬁ",
]


def write(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def auto(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def same(folder, texts=TEXTS):
    """Check every text's ids beside transformers'; both tokenizers."""
    ours, theirs = Tokenizer.from_folder(folder), auto(folder)
    for text in texts:
        assert ours.encode([text])[0][0] == theirs.encode(text, add_special_tokens=False), text
        assert [row.tolist() for row in ours.ids([text])] == ours.encode([text])[0]
    return ours, theirs


@pytest.fixture
def folder(tmp_path):
    copy_vocabulary(tmp_path)
    write(tmp_path, "config.json", CONFIG)
    return tmp_path


@pytest.fixture(scope="session")
def whole_json(tmp_path_factory):
    """GPT-2's vocabulary as one tokenizer.json, as transformers writes it."""
    folder = tmp_path_factory.mktemp("whole")
    copy_vocabulary(folder)
    write(folder, "config.json", CONFIG)
    auto(folder).save_pretrained(folder / "out")
    return (folder / "out" / "tokenizer.json").read_text(encoding="utf-8")


@pytest.fixture
def whole(tmp_path, whole_json):
    write(tmp_path, "tokenizer.json", whole_json)
    write(tmp_path, "config.json", CONFIG)
    return tmp_path


@pytest.fixture(params=["folder", "whole"])
def either(request):
    return request.getfixturevalue(request.param)


def fields(content, **changed):
    base = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": False}
    return {"content": content} | base | changed


# --- what stands beside a vocabulary ---


def test_added_tokens_json(either):
    write(either, "added_tokens.json", {"<|sep|>": 50257, "<|pad|>": 50258, "newword": 50259})
    ours, _ = same(either)
    assert ours.encode(["Hi<|sep|>there"])[0] == [[17250, 50257, 8117]]
    assert ours.decode([17250, 50257, 8117]) == "Hi<|sep|>there"
    assert ours.tokens("Hi<|sep|>there").strings == [["Hi", "<|sep|>", "there"]]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"special": True},
        {"normalized": True},
        {"lstrip": True},
        {"rstrip": True, "special": True},
        {"lstrip": True, "rstrip": True, "normalized": True},
        {"single_word": True},
    ],
)
def test_added_tokens_decoder(either, changed):
    added = [fields("<|endoftext|>", special=True), *(fields(t, **changed) for t in ("<|sep|>", "<|pad|>", "newword"))]
    write(
        either,
        "tokenizer_config.json",
        {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {str(50256 + i): t for i, t in enumerate(added)}},
    )
    same(either)


def test_the_flags_of_a_token_that_both_files_name(whole):
    """tokenizer_config.json is the newer."""
    backend = tokenizers.Tokenizer.from_file(str(whole / "tokenizer.json"))
    backend.add_tokens(["<|sep|>"])
    backend.save(str(whole / "tokenizer.json"))
    added = {"50256": fields("<|endoftext|>", special=True), "50257": fields("<|sep|>", lstrip=True, rstrip=True)}
    write(whole, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": added})
    ours, _ = same(whole)
    assert ours.encode(["Hi <|sep|> there"])[0] == [[17250, 50257, 8117]]


def test_tokenizer_json_beside_a_newer_added_tokens_json(whole):
    backend = tokenizers.Tokenizer.from_file(str(whole / "tokenizer.json"))
    backend.add_tokens(["<|sep|>"])
    backend.save(str(whole / "tokenizer.json"))
    write(whole, "added_tokens.json", {"<|sep|>": 50257, "<|user|>": 50258})
    ours, _ = same(whole)
    assert ours.encode(["<|sep|><|user|>"])[0] == [[50257, 50258]]


@pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "special",
    [
        {"pad_token": "<|pad|>"},
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        {"pad_token": "[PAD]", "additional_special_tokens": ["<|user|>", "<|sep|>"]},
        {"cls_token": "[CLS]", "extra_special_tokens": ["<|sep|>"]},
        {"pad_token": None, "unk_token": "<|endoftext|>"},
    ],
)
def test_special_tokens(either, name, special):
    write(either, name, special)
    same(either)


def test_special_tokens_with_their_fields(either):
    token, written = fields("<|pad|>", rstrip=True), {"__type": "AddedToken"}
    write(either, "special_tokens_map.json", {"pad_token": token, "cls_token": fields("[CLS]", lstrip=True)})
    same(either)
    (either / "special_tokens_map.json").unlink()
    extra = [fields("<|sep|>", lstrip=True, special=True) | written]
    write(either, "tokenizer_config.json", {"pad_token": token | written, "additional_special_tokens": extra})
    same(either)


def test_a_special_token_of_a_role_of_its_own(either):
    write(either, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "user_token": "<|user|>"})
    ours, _ = same(either)
    assert ours.encode(["<|user|>"])[0] == [[50257]]


@pytest.mark.parametrize("kind", [None, "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("in_file", [True, False])
@pytest.mark.parametrize("in_config", [True, False, None])
def test_a_space_in_front(whole, kind, in_file, in_config):
    state = json.loads((whole / "tokenizer.json").read_text(encoding="utf-8"))
    state["pre_tokenizer"]["add_prefix_space"] = in_file
    write(whole, "tokenizer.json", state)
    given = {"tokenizer_class": kind, "add_prefix_space": in_config}
    write(whole, "tokenizer_config.json", {key: value for key, value in given.items() if value is not None})
    ours, _ = same(whole)
    spaced = in_file if kind == "PreTrainedTokenizerFast" else bool(in_config)
    assert ours.tokens("Hello").strings == [[" Hello" if spaced else "Hello"]]
    assert ours.tokens("Hello").offsets == [[(0, 5)]]


def test_a_space_in_front_of_vocabulary_and_merges(folder):
    write(folder, "tokenizer_config.json", {"add_prefix_space": True})
    ours, _ = same(folder)
    assert ours.encode(["Hello"])[0] == [[18435]]


def test_special_tokens_that_are_split(either):
    write(either, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "split_special_tokens": True})
    ours, _ = same(either)
    assert len(ours.encode(["<|endoftext|>"])[0][0]) > 1
    assert pickle.loads(pickle.dumps(ours)).encode(TEXTS) == ours.encode(TEXTS)


def test_padding_truncation_and_templates_are_left_out(whole):
    backend = tokenizers.Tokenizer.from_file(str(whole / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=20)
    backend.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 50256)]
    )
    backend.save(str(whole / "tokenizer.json"))
    ours = Tokenizer.from_folder(whole)
    assert ours.encode(["a b c d e"])[0] == [[64, 275, 269, 288, 304]]


def test_dropout_of_a_training_run_is_off(whole):
    state = json.loads((whole / "tokenizer.json").read_text(encoding="utf-8"))
    state["model"]["dropout"] = 0.9
    write(whole, "tokenizer.json", state)
    same(whole)


def test_ids_with_a_gap(folder):
    write(folder, "added_tokens.json", {"<|sep|>": 50260})
    message = "the added token '<|sep|>' is given the id 50260, and the next that the vocabulary has is 50257"
    with pytest.raises(TokenizerError, match=re.escape(message)):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"]
)
@pytest.mark.parametrize("content", ['{"a": ', "[1, 2]", "\x00\xff"])
def test_damaged_files_beside_a_vocabulary(folder, name, content):
    write(folder, name, content)
    with pytest.raises(TokenizerError, match=re.escape(name)) as error:
        Tokenizer.from_folder(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "wrong", [{"added_tokens_decoder": {"50257": 3}}, {"added_tokens_decoder": {"x": {}}}, {"added_tokens_decoder": 5}]
)
def test_added_tokens_that_are_none(folder, wrong):
    write(folder, "tokenizer_config.json", wrong)
    with pytest.raises(TokenizerError, match=r"^the tokenizer files in |^an added token is given as 3: "):
        Tokenizer.from_folder(folder)
