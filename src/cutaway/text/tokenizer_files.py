"""Read tokenizers from a checkpoint's folder, one file, or a tokenizer of transformers.

    read(folder)        Backend: the tokenizers library's tokenizer, and the ids that stand before and after a text
    convert(given)      the same from a file, a tokenizers.Tokenizer or a transformers tokenizer
    declared_ids(folder, "eos_token_id")     the ids that generation_config.json, else config.json, declares

A folder gives the ids that transformers' AutoTokenizer gives with add_special_tokens=False: tokenizer_config.json,
special_tokens_map.json and added_tokens.json are applied, too.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.errors import InputError, TokenizerError

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # Hugging Face's names, OpenAI's
SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
# The files that a tokenizer may be in: the first that a folder has counts.
FORMS = (("tokenizer.json",), *PAIRS, *((name,) for name in SENTENCEPIECE), ("vocab.txt",))
VOCABULARIES = tuple(name for names in FORMS for name in names)
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json")
WORDPIECE = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")  # special in every BertTokenizer
OTHER_BPE = ("OpenAIGPTTokenizer", "CLIPTokenizer", "CTRLTokenizer", "PhobertTokenizer", "BertweetTokenizer")
ADDED = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Backend:
    """A tokenizer of the tokenizers library, and the ids that stand before and after a text."""

    tokenizer: tokenizers.Tokenizer
    bos: int | None = None
    eos: int | None = None


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Raise the tokenizers library's errors, which are bare Exceptions or panics, as a TokenizerError."""
    try:
        yield
    except (TokenizerError, InputError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise TokenizerError(f"{what}: {reason}") from None


def read(folder: Path) -> Backend | None:
    """Read the tokenizer in a folder; return None where it has none.

    Raises TokenizerError for files that cannot be read, or that ask for something that Cutaway does not know.
    """
    with library_errors(f"the tokenizer files in {folder} cannot be read"):
        settings = _json(folder / "tokenizer_config.json")
        declared = settings.get("tokenizer_class") or _json(folder / "config.json").get("tokenizer_class")
        kind = str(declared or "GPT2Tokenizer").removesuffix("Fast")
        backend = _vocabulary(folder, kind, settings)
        if backend is None:
            return None
        special = _add_tokens(backend, folder, settings)
        if kind == "GPT2Tokenizer" and any(role not in special for role in ("bos_token", "eos_token", "unk_token")):
            _add_known(backend, [END_OF_TEXT])  # the class's own default for each
        backend.encode_special_tokens = bool(settings.get("split_special_tokens", False))
        bos, eos = (_id_of(backend, _text_of(special.get(role))) for role in ("bos_token", "eos_token"))
        if bos is None:
            entries = backend.get_vocab_size()
            bos = next((i for i in declared_ids(folder, "bos_token_id") if i < entries), None)
        return Backend(backend, bos, eos)


def convert(given: Any) -> Backend:
    """Read a folder or a file, or copy a tokenizers.Tokenizer or a transformers tokenizer.

    Raises TokenizerError for files that hold no tokenizer, InputError for anything else.
    """
    import tokenizers

    if isinstance(given, tokenizers.Tokenizer):
        return Backend(_copy(given))
    if isinstance(given, (str, os.PathLike)):
        if not str(given):
            raise TokenizerError("'' is not there: a folder or a tokenizer file was expected")
        with library_errors(f"{str(given)!r} cannot be read as a tokenizer"):  # as for an unknown ~user
            path = Path(given).expanduser()
            opened = read(path) if path.is_dir() else _file(path)
        if opened is None:
            raise TokenizerError(f"{path} has no tokenizer: one of {', '.join(VOCABULARIES)} was expected")
        return opened
    if not (hasattr(given, "bos_token_id") and hasattr(given, "convert_ids_to_tokens")):
        kind = type(given).__name__
        raise InputError(
            f"a tokenizer of type {kind} was given: a folder, a file, a tokenizers.Tokenizer or a transformers "
            "tokenizer was expected"
        )
    name = type(given).__name__
    with library_errors(f"the transformers tokenizer {name} is not a fast one and cannot be converted"):
        backend = getattr(given, "backend_tokenizer", None)
        if not isinstance(backend, tokenizers.Tokenizer):
            from transformers.convert_slow_tokenizer import convert_slow_tokenizer

            backend = convert_slow_tokenizer(given)
    return Backend(_copy(backend), given.bos_token_id, given.eos_token_id)


def _copy(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    copied = copy.deepcopy(backend)
    copied.encode_special_tokens = backend.encode_special_tokens  # which the library's own copy loses
    return copied


def declared_ids(folder: Path, key: str) -> tuple[int, ...]:
    """Return the ids that generation_config.json, else config.json, declares under a key; there may be none."""
    for name in ("generation_config.json", "config.json"):
        if ids := as_ids(_json(folder / name).get(key)):
            return ids
    return ()


def as_ids(declared: Any) -> tuple[int, ...]:
    """Return the ids in a declared number or list of numbers; an empty tuple for anything else."""
    several = declared if isinstance(declared, (list, tuple)) else [declared]
    return tuple(i for i in several if isinstance(i, int) and not isinstance(i, bool) and i >= 0)


def _json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object from a file; return an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise TokenizerError(f"{path} holds a JSON {type(parsed).__name__}: an object was expected")
    return parsed


def _vocabulary(folder: Path, kind: str, settings: Mapping[str, Any]) -> tokenizers.Tokenizer | None:
    """Make the tokenizer of a folder's vocabulary, before anything is added to it."""
    import tokenizers

    present = {name for name in VOCABULARIES if (folder / name).is_file()}
    if "tokenizer.json" in present:
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        return _as_class(backend, kind, settings)
    for vocabulary, merges in PAIRS:
        if present >= {vocabulary, merges}:
            return _byte_level(folder / vocabulary, folder / merges, kind, settings)
    for name in SENTENCEPIECE:
        if name in present:
            from cutaway.text.sentencepiece_files import read as read_sentencepiece

            return read_sentencepiece(folder / name)
    return _wordpiece(folder / "vocab.txt", kind, settings) if "vocab.txt" in present else None


def _file(path: Path) -> Backend | None:
    """Read the tokenizer of one file, or of the pair of files that it belongs to."""
    import tokenizers

    if not path.is_file():
        raise TokenizerError(f"{path} is not there: a folder or a tokenizer file was expected")
    with library_errors(f"{path} cannot be read as a tokenizer"):
        for pair in PAIRS:
            if path.name in pair:
                for name in pair:
                    if not (path.parent / name).is_file():
                        raise TokenizerError(f"{path} needs {name} beside it")
                backend = _byte_level(path.parent / pair[0], path.parent / pair[1], "GPT2Tokenizer", {})
                _add_known(backend, [END_OF_TEXT])
                return Backend(backend)
        if path.suffix == ".model":
            from cutaway.text.sentencepiece_files import read as read_sentencepiece

            backend = read_sentencepiece(path)
            return Backend(backend, _id_of(backend, "<s>"), _id_of(backend, "</s>"))
        if path.suffix == ".txt":
            return Backend(_wordpiece(path, "BertTokenizer", {}))
        return Backend(tokenizers.Tokenizer.from_file(str(path)))


def _byte_level(vocabulary: Path, merges: Path, kind: str, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    if kind in OTHER_BPE:
        raise TokenizerError(
            f"{vocabulary.name} and {merges.name} belong to a {kind}, which is not byte-level BPE: convert them to "
            "tokenizer.json"
        )
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space", False)))
    backend.decoder = decoders.ByteLevel()
    return backend


def _wordpiece(vocabulary: Path, kind: str, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    if kind not in ("BertTokenizer", "GPT2Tokenizer", "PreTrainedTokenizer"):
        raise TokenizerError(f"vocab.txt belongs to a {kind}: that of a BertTokenizer was expected")
    unknown = _text_of(settings.get("unk_token")) or "[UNK]"
    backend = tokenizers.Tokenizer(models.WordPiece.from_file(str(vocabulary), unk_token=unknown))
    backend.normalizer = _bert_normalizer(settings)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    _add_known(backend, WORDPIECE)
    return backend


def _bert_normalizer(settings: Mapping[str, Any]) -> Any:
    from tokenizers import normalizers

    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )


def _as_class(backend: tokenizers.Tokenizer, kind: str, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Apply the settings of transformers' class to a tokenizer.json; they win over those in the file."""
    from tokenizers import normalizers, pre_tokenizers

    if kind == "GPT2Tokenizer":
        outer = backend.pre_tokenizer
        within = [outer] if not isinstance(outer, pre_tokenizers.Sequence) else list(_parts(outer))
        for part in within:
            if isinstance(part, pre_tokenizers.ByteLevel):
                part.add_prefix_space = bool(settings.get("add_prefix_space", False))
    if kind == "BertTokenizer" and isinstance(backend.normalizer, normalizers.BertNormalizer):
        backend.normalizer = _bert_normalizer(settings)
        _add_known(backend, WORDPIECE)
    if getattr(backend.model, "dropout", None):
        backend.model.dropout = None  # meant for training: the same text would get other ids at each call
    return backend


def _parts(sequence: Any) -> Iterator[Any]:
    try:
        for i in range(1000):
            yield sequence[i]
    except IndexError:
        return


def _add_tokens(backend: tokenizers.Tokenizer, folder: Path, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add the tokens of the files beside a vocabulary, in transformers' order; return the settings by role."""
    from tokenizers import AddedToken

    special = dict(settings)
    listed: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in settings:
        listed = {int(i): _added(token) for i, token in settings["added_tokens_decoder"].items()}
    else:
        special |= {
            key: token | {"special": True} if isinstance(token, dict) and "content" in token else token
            for key, token in _json(folder / "special_tokens_map.json").items()
        }
        known = {token.content for token in backend.get_added_tokens_decoder().values()}
        names = {_text_of(token) for _, token in _roles(special)}
        for text, index in _json(folder / "added_tokens.json").items():
            if text not in known:  # tokenizer.json is newer
                listed[index] = AddedToken(text, normalized=text not in names, special=text in names)
    names = {_text_of(token) for _, token in _roles(special)}
    for token in listed.values():
        token.special = token.special or token.content in names
    new = {token.content: index for index, token in listed.items() if backend.token_to_id(token.content) is None}
    backend.add_tokens([token for _, token in sorted(listed.items(), key=lambda item: item[0])])
    for text, index in sorted(new.items(), key=lambda item: item[1]):
        if (got := backend.token_to_id(text)) != index:
            raise TokenizerError(
                f"the added token {text!r} is given the id {index}, and the next free one is {got}: every id below an "
                "added token's must have an entry"
            )
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    missing = [_added(token, special=True) for _, token in _roles(special) if _text_of(token) not in added]
    backend.add_tokens(missing)
    return special


def _roles(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return every special token with its role: named roles (`pad_token`, `image_token`) first, then the others."""
    roles = [(key, token) for key, token in settings.items() if key.endswith("_token") and _text_of(token)]
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    roles += list(extra.items()) if isinstance(extra, dict) else [("", token) for token in extra]
    return [(role, token) for role, token in roles if _text_of(token)]


def _text_of(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def _added(token: Any, special: bool = False) -> Any:
    """Make an added token from its entry in the files: a text, or its fields."""
    from tokenizers import AddedToken

    if isinstance(token, str):
        return AddedToken(token, special=special)
    if _text_of(token) is None:
        raise TokenizerError(f"an added token is given as {token!r}: its text or its fields were expected")
    return AddedToken(**{"special": special} | {key: token[key] for key in ADDED if key in token})


def _add_known(backend: tokenizers.Tokenizer, texts: Iterable[str]) -> None:
    """Make entries of the vocabulary special, so that they are found in a text; skip those that it lacks."""
    from tokenizers import AddedToken

    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    known = [text for text in texts if backend.token_to_id(text) is not None and text not in added]
    backend.add_tokens([AddedToken(text, special=True) for text in known])


def _id_of(backend: tokenizers.Tokenizer, text: str | None) -> int | None:
    index: int | None = None if text is None else backend.token_to_id(text)
    return index
