"""Tokenizers from files on disk give the ids of transformers' AutoTokenizer on the same folder."""

import json
import os
import pickle
import re

import pytest
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

import cutaway
from cutaway.errors import InputError, TokenizerError
from cutaway.text.tokens import Tokenizer
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
    """Check that every text has transformers' ids; return both tokenizers."""
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
    for given in (auto(either), auto(either).backend_tokenizer):
        assert Tokenizer.of(given).encode(TEXTS) == ours.encode(TEXTS)


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
    message = "the added token '<|sep|>' is given the id 50260, and the next free one is 50257"
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


# --- other names, other kinds of files ---


def test_openai_s_own_names(folder):
    (folder / "vocab.json").rename(folder / "encoder.json")
    (folder / "merges.txt").rename(folder / "vocab.bpe")
    ours = Tokenizer.from_folder(folder)
    copy_vocabulary(folder)
    assert ours.encode(TEXTS) == Tokenizer.from_folder(folder).encode(TEXTS)


@pytest.fixture(scope="session")
def corpus(documents):
    return [*list(documents.values())[:4], "Zürich naïve café 東京へ行く", "hello, don't you? [5.5%]"]


@pytest.fixture(scope="session")
def words(corpus):
    """The lines of a BERT vocabulary, trained here."""
    backend = tokenizers.BertWordPieceTokenizer(lowercase=False)
    backend.train_from_iterator(corpus, vocab_size=1200, show_progress=False)
    vocabulary = backend.get_vocab()
    return "\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
        {"added_tokens_decoder": {"1200": fields("<|sep|>", lstrip=True)}, "do_lower_case": False},
    ],
)
def test_vocab_txt(tmp_path, words, settings):
    write(tmp_path, "vocab.txt", words)
    write(tmp_path, "config.json", CONFIG | {"tokenizer_class": "BertTokenizer"})
    write(tmp_path, "tokenizer_config.json", settings)
    ours, theirs = same(tmp_path)
    assert ours.decode(ours.encode(["Hello, you don't"])[0][0]) == theirs.decode(
        theirs.encode("Hello, you don't")[1:-1]
    )
    theirs.save_pretrained(tmp_path)  # tokenizer.json
    assert (tmp_path / "tokenizer.json").is_file()
    (tmp_path / "vocab.txt").unlink()
    same(tmp_path)


def test_vocab_txt_of_another_class(tmp_path, words):
    write(tmp_path, "vocab.txt", words)
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"})
    with pytest.raises(TokenizerError, match=r"^vocab.txt belongs to a BertJapaneseTokenizer: that of a BertTokenizer"):
        Tokenizer.from_folder(tmp_path)


def test_merges_that_are_not_byte_level(folder):
    write(folder, "tokenizer_config.json", {"tokenizer_class": "OpenAIGPTTokenizer"})
    with pytest.raises(
        TokenizerError,
        match=r"belong to a OpenAIGPTTokenizer, which is not byte-level BPE: convert them to tokenizer.json$",
    ):
        Tokenizer.from_folder(folder)


def train_sentencepiece(folder, corpus, **options):
    import sentencepiece

    lines = [line for text in corpus for line in text.splitlines() if line.strip()][:600]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "spiece"),
        **{"vocab_size": 600, "hard_vocab_limit": False, "minloglevel": 2, "user_defined_symbols": ["<sep>"]} | options,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram"},
        {"model_type": "unigram", "byte_fallback": True},
        {"model_type": "bpe", "byte_fallback": True},
        {"model_type": "bpe"},
        {"model_type": "unigram", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        {"model_type": "unigram", "add_dummy_prefix": False, "byte_fallback": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_sentencepiece(tmp_path, corpus, options):
    """Ids and text are those of sentencepiece itself."""
    theirs = train_sentencepiece(tmp_path, corpus, **options)
    ours = Tokenizer.from_folder(tmp_path)
    texts = ["The people of the United States", "Zürich, naïve ½ ﬁ 東京", "hello <sep> you", "don't  do   that", "a"]
    for text in [*texts, " leading", *corpus[0].splitlines()[:30]]:
        [ids], _ = ours.encode([text])
        assert ids == theirs.encode(text), text
        assert ours.decode(ids).replace("<unk>", " ⁇ ") == theirs.decode(ids), text
    assert ours.encode([""])[0] == [[]]
    tokens = ours.tokens("hello there   you <sep>and")
    assert "".join(tokens.strings[0]) == theirs.decode(tokens.rows()[0])
    assert (ours.vocabulary[1], ours.vocabulary[2]) == ("<s>", "</s>")
    assert Tokenizer.of(tmp_path / "spiece.model").bos() == [1]


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x0a\x00\x0a\x00", os.urandom(999), b"\xff" * 50])
def test_a_bad_sentencepiece_file(tmp_path, content):
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(TokenizerError) as error:
        Tokenizer.from_folder(tmp_path)
    assert "spiece.model" in str(error.value) or str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cut_sentencepiece_file(tmp_path, corpus):
    train_sentencepiece(tmp_path, corpus)
    raw = (tmp_path / "spiece.model").read_bytes()
    for cut in (10, 1000, len(raw) // 2, len(raw) - 1):
        (tmp_path / "spiece.model").write_bytes(raw[:cut])
        with pytest.raises(TokenizerError, match=r"is damaged or not a SentencePiece model$"):
            Tokenizer.from_folder(tmp_path)


# --- decoding as the tokenizers library does ---


def music(_):
    vocabulary = ["[UNK]", "PIECE_START", "TRACK_START", "INST=0", "BAR_START", "NOTE_ON=60", "TIME_DELTA=4"]
    backend = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend, ["PIECE_START TRACK_START INST=0 BAR_START", "NOTE_ON=60 TIME_DELTA=4 x NOTE_ON=60", ""]


def chinese(_):
    vocabulary = {
        w: i for i, w in enumerate(["[UNK]", "[CLS]", "[SEP]", "东", "京", "un", "##aff", "##able", "hello", "."])
    }
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(["[CLS]", "[SEP]"])
    return backend, ["东京 unaffable Hello.", "unaffable[SEP] 东", "[CLS] hello"]


def unigram(corpus):
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, unk_token="<unk>", special_tokens=["<unk>", "<sep>"])
    backend.train_from_iterator([text[:9000] for text in corpus], trainer)
    return backend, ["Hello world", "The people of the States", " two  spaces ", "a <sep> b"]


def byte_fallback(corpus):
    """A tokenizer like Llama's: bytes for characters that the vocabulary lacks, the first space dropped at the end."""
    alphabet = sorted({c for text in corpus[:4] for c in text} | {"▁"})
    vocabulary = ["<unk>", "<s>", *(f"<0x{i:02X}>" for i in range(256)), *alphabet, "▁t", "he", "▁the"]
    ids = {entry: i for i, entry in enumerate(dict.fromkeys(vocabulary))}
    backend = tokenizers.Tokenizer(
        models.BPE(ids, [("▁", "t"), ("h", "e"), ("▁t", "he")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<s>"])
    return backend, ["the others then", "in the end", "<s>the people"]


def ended_words(corpus):
    backend = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(vocab_size=500, end_of_word_suffix="</w>", special_tokens=["<unk>"])
    backend.train_from_iterator([text[:9000] for text in corpus], trainer)
    return backend, ["the others then", "in the end of it", "a"]


def two_steps(corpus):
    """Byte-level behind another step, as in files that split digits first."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator([text[:9000] for text in corpus], trainer)
    return backend, ["the year 1984", "in Zürich", "東京 2020"]


KINDS = [music, chinese, unigram, byte_fallback, ended_words, two_steps]


@pytest.mark.parametrize("kind", KINDS)
def test_text_and_offsets_are_the_library_s(tmp_path, corpus, kind):
    backend, texts = kind(corpus)
    backend.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, "config.json", CONFIG)
    ours = Tokenizer.from_folder(tmp_path)
    for text in texts:
        theirs = backend.encode(text, add_special_tokens=False)
        tokens = ours.tokens(text)
        assert tokens.rows() == [theirs.ids]
        assert tokens.offsets == [theirs.offsets]
        decoded = backend.decode(theirs.ids, skip_special_tokens=False)
        assert ours.decode(theirs.ids) == decoded
        if kind is two_steps:  # whose tokens may be parts of a character
            continue
        assert "".join(tokens.strings[0]) == decoded
        for token, shown in zip(tokens.strings[0], tokens.display[0], strict=True):
            assert shown == token.replace(" ", "·")
            assert not set("▁Ġ�") & set(token)
            assert "##" not in token
        for i in range(len(theirs.ids)):
            assert ours.decode(theirs.ids[: i + 1]) == backend.decode(theirs.ids[: i + 1], skip_special_tokens=False)


def test_strings_of_other_tokenizers(corpus):
    """Tokens read as in the middle of a text, and the first one as at its beginning."""
    ours = Tokenizer.of(chinese(corpus)[0])
    assert ours.tokens("Hello. unaffable 东京").strings == [["hello", ".", " un", "aff", "able", " 东", " 京"]]
    assert (ours.string(5), ours.string(6), ours.display(8)) == (" un", "aff", "·hello")
    assert ours.single("hello") == 8
    ours = Tokenizer.of(music(corpus)[0])
    assert ours.decode([1, 2, 3]) == "PIECE_START TRACK_START INST=0"
    assert ours.tokens("PIECE_START TRACK_START").strings == [["PIECE_START", " TRACK_START"]]
    ours = Tokenizer.of(unigram(corpus)[0])
    assert ours.tokens("the people").strings[0][0].startswith("the"[0])
    assert ours.string(ours.vocabulary.index("▁the")) == " the"


def test_what_a_tokenizer_json_does_to_a_text_is_done(tmp_path, corpus):
    """transformers' GPT2Tokenizer makes a new one of its vocabulary and merges, without the normalizer."""
    backend, texts = two_steps(corpus)
    backend.normalizer = normalizers.Lowercase()
    backend.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, "config.json", CONFIG)
    for text in [*texts, "The Year"]:
        assert Tokenizer.from_folder(tmp_path).encode([text])[0] == [backend.encode(text).ids]


def test_bytes_for_what_a_vocabulary_lacks(corpus):
    backend, _ = byte_fallback(corpus)
    ours = Tokenizer.of(backend)
    tokens = ours.tokens("the 東\x07")
    assert ours.decode(tokens.rows()[0]) == "the 東\x07" == backend.decode(tokens.rows()[0])
    assert tokens.display == [["the", "·", "\\xe6", "\\x9d", "\\xb1", "\\x07"]]
    assert tokens.strings == [["the", " ", "�", "�", "�", "\x07"]]
    assert b"".join(map(ours.bytes, tokens.rows()[0][2:])) == "東\x07".encode()


def test_a_padded_vocabulary_of_another_kind(corpus):
    ours = Tokenizer.of(music(corpus)[0])
    assert ours.decode([1, 99, 2]) == "PIECE_START[99]TRACK_START"
    assert Tokenizer.of(chinese(corpus)[0]).tokens("东").display == [["东"]]


@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_pickles(corpus, kind):
    backend, texts = kind(corpus)
    ours = Tokenizer.of(backend)
    again = pickle.loads(pickle.dumps(ours))
    assert again.tokens(texts).strings == ours.tokens(texts).strings
    assert again.encode(texts) == ours.encode(texts)


# --- a tokenizer that cannot spell a text ---


def without_unknown(kind):
    if kind == "WordLevel":
        backend = tokenizers.Tokenizer(models.WordLevel({"hello": 0, "world": 1}))
    else:
        backend = tokenizers.Tokenizer(models.Unigram([(c, -1.0) for c in "helo wrd"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


@pytest.fixture(params=["WordLevel", "Unigram"])
def unspellable(request, tmp_path):
    from tests.model.reference import random_gpt2

    without_unknown(request.param).save(str(tmp_path / "tokenizer.json"))
    random_gpt2(n_embd=8, n_head=2, n_layer=1, n_positions=32, vocab_size=8).save_pretrained(tmp_path)
    return tmp_path


REFUSED = "the tokenizer has no ids for "


def test_a_text_outside_the_vocabulary(unspellable):
    model = cutaway.load(unspellable, device="cpu")
    assert model.tokens("hello world").ids.shape[1] >= 2
    for read in (model.run, model.predict, model.tokenizer.single, lambda text: list(model.tokenizer.ids([text]))):
        with pytest.raises(TokenizerError, match=f"^{REFUSED}'hello xyz': ") as error:
            read("hello xyz")
        assert "\n" not in str(error.value)
    with pytest.raises(TokenizerError, match=rf"^{REFUSED}'z{{40}}'… \(text 2 of 3\): "):
        model.tokens(["hello", "z" * 99, "world"])


@pytest.mark.parametrize("command", ["tokens", "predict", "generate", "lens"])
def test_the_command_line_says_it_in_one_line(unspellable, command, capsys, monkeypatch):
    from cutaway import cli

    monkeypatch.setattr("sys.argv", ["cutaway", command, "hello xyz", "-m", str(unspellable)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"cutaway: error: {REFUSED}'hello xyz': ")


def test_the_workbench_answers_400(unspellable):
    from starlette.testclient import TestClient

    from cutaway.app.routes import create

    client = TestClient(create(cutaway.load(unspellable, device="cpu")), base_url="http://127.0.0.1:8000")
    for path, body in (
        ("view", {"text": "hello xyz"}),
        ("rank", {"text": "hello world", "token": "xyz"}),
        ("generate", {"text": "hello xyz"}),
    ):
        answer = client.post(f"/api/{path}", json=body)
        assert (answer.status_code, REFUSED in answer.text) == (400, True), (path, answer.text)
    assert client.post("/api/view", json={"text": "hello world"}).status_code == 200


# --- another tokenizer than the checkpoint's ---


def test_a_tokenizer_of_one_s_own(folder, corpus, tmp_path_factory):
    from tests.model.reference import random_gpt2

    theirs = random_gpt2(n_embd=8, n_head=2, n_layer=1, n_positions=32, vocab_size=50300)
    fast, want = auto(folder), [[17250, 50256]]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    fast.save_pretrained(elsewhere)
    for given in (
        *(folder, str(folder), folder / "vocab.json", folder / "merges.txt", elsewhere, elsewhere / "tokenizer.json"),
        *(fast, fast.backend_tokenizer, Tokenizer.from_folder(folder)),
    ):
        model = cutaway.load(theirs, device="cpu", tokenizer=given)
        assert model.tokens("Hi<|endoftext|>").rows() == want
        assert model.tokens("Hi", bos=True).rows() == [[50256, 17250]]
    assert fast.backend_tokenizer.post_processor is not None
    assert cutaway.load(theirs, tokenizer=str(folder)).origin == f"cutaway.load(hf_model, tokenizer={str(folder)!r})"
    assert cutaway.load(theirs, tokenizer=fast).origin == "cutaway.load(hf_model, tokenizer=tokenizer)"


def test_a_damaged_tokenizer_is_not_read_where_another_is_given(folder, tmp_path_factory):
    from tests.model.reference import random_gpt2

    elsewhere = tmp_path_factory.mktemp("damaged")
    random_gpt2(n_embd=8, n_head=2, n_layer=1, n_positions=32, vocab_size=50300).save_pretrained(elsewhere)
    (elsewhere / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="cannot be read"):
        cutaway.load(elsewhere, device="cpu")
    assert cutaway.load(elsewhere, device="cpu", tokenizer=folder).tokens("Hi").rows() == [[17250]]


def test_a_transformers_tokenizer_keeps_what_was_added(folder):
    fast = auto(folder)
    fast.add_special_tokens({"bos_token": "<s>", "extra_special_tokens": ["<|user|>"]})
    fast.add_tokens(["<|sep|>"])
    ours = Tokenizer.of(fast)
    for text in TEXTS:
        assert ours.encode([text])[0] == [fast.encode(text, add_special_tokens=False)]
    assert ours.bos() == [fast.bos_token_id]
    before = fast.backend_tokenizer.to_str()
    ours.tokens(TEXTS)
    assert fast.backend_tokenizer.to_str() == before


def test_a_slow_transformers_tokenizer(tmp_path, words):
    """Converted where transformers can convert it, refused by its name where not."""
    from transformers import CanineTokenizer

    with pytest.raises(TokenizerError, match=r"^the transformers tokenizer CanineTokenizer is not a fast "):
        Tokenizer.of(CanineTokenizer())


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            5,
            InputError,
            "a tokenizer of type int was given: a folder, a file, a tokenizers.Tokenizer or a trans",
        ),
        (object(), InputError, "a tokenizer of type object was given"),
        ("nowhere/at/all", TokenizerError, "nowhere/at/all is not there: a folder or a tokenizer file was expected"),
        ("x" * 5000, TokenizerError, "'xxxxx"),
        ("~nobody-here/x", TokenizerError, "'~nobody-here/x' cannot be read as a tokenizer: "),
        ("a\0b", TokenizerError, "a\0b is not there"),
        ("", TokenizerError, "'' is not there: a folder or a tokenizer file was expected"),
    ],
)
def test_what_is_no_tokenizer(wrong, error, message):
    for take in (Tokenizer.of, lambda given: cutaway.load(tokenizer=given)):
        with pytest.raises(error, match="^" + re.escape(message)):
            take(wrong)


def test_a_folder_or_file_without_a_tokenizer(tmp_path):
    with pytest.raises(TokenizerError, match=r" has no tokenizer: one of tokenizer\.json, vocab\.json, "):
        Tokenizer.of(tmp_path)
    for name in ("some.json", "vocab.json", "vocab.txt.gz", "x.model", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"\x00\xff{")
        with pytest.raises(TokenizerError) as error:
            Tokenizer.of(tmp_path / name)
        assert name in str(error.value)
