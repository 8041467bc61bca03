"""Read SentencePiece models (spiece.model, tokenizer.model) into the tokenizers library.

Kudo and Richardson 2018, SentencePiece: A simple and language independent subword tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutaway.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

SPACE = "▁"
UNIGRAM, BPE = 1, 2  # model types of the format
CONTROL, USER_DEFINED = 3, 4  # types of a piece


def read(path: Path) -> tokenizers.Tokenizer:
    """Read a model. Raises TokenizerError for a damaged file, or a model of a type that Cutaway does not know."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers

    proto = _parse(path)
    trained, normal = proto.trainer_spec, proto.normalizer_spec
    if trained.treat_whitespace_as_suffix:
        raise TokenizerError(f"{path} marks spaces at the end of words, which the tokenizers library does not")
    backend = Tokenizer(_model(proto, path))
    steps: list[Any] = []
    if normal.precompiled_charsmap:
        steps.append(normalizers.Precompiled(normal.precompiled_charsmap))
    if normal.remove_extra_whitespaces:
        # A space in front is kept where one would be added: Metaspace adds one only to a text without.
        steps.append(normalizers.Strip(left=not normal.add_dummy_prefix, right=True))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    elif normal.add_dummy_prefix:
        steps.append(normalizers.Replace(Regex("^ "), "  "))  # Metaspace adds none to a text that begins with one
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    scheme = "first" if normal.add_dummy_prefix else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=trained.split_by_whitespace)
    decoding: list[Any] = [decoders.Replace(SPACE, " ")]
    if trained.byte_fallback:
        decoding.append(decoders.ByteFallback())
    decoding.append(decoders.Fuse())
    if normal.add_dummy_prefix:
        decoding.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(decoding)
    own = [piece for piece in proto.pieces if piece.type in (CONTROL, USER_DEFINED)]
    # With normalized=True they are found after the whole text was stripped, and not part by part before.
    backend.add_tokens([AddedToken(p.piece, normalized=True, special=p.type == CONTROL) for p in own])
    return backend


def _parse(path: Path) -> Any:
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        needed = "pip install 'cutaway[sentencepiece]'"
        raise TokenizerError(f"{path} needs the packages sentencepiece and protobuf to be read: {needed}") from None
    schema: Any = sentencepiece_model_pb2  # made at run time
    proto = schema.ModelProto()
    raw = path.read_bytes()
    try:
        proto.ParseFromString(raw)
    except Exception:  # protobuf's DecodeError
        proto.Clear()
    if not proto.pieces or not all(piece.piece for piece in proto.pieces):
        raise TokenizerError(f"{path} ({len(raw):,} bytes) is damaged or not a SentencePiece model")
    return proto


def _model(proto: Any, path: Path) -> Any:
    from tokenizers import models

    trained = proto.trainer_spec
    if trained.model_type == UNIGRAM:
        scores = [(piece.piece, piece.score) for piece in proto.pieces]
        return models.Unigram(scores, unk_id=trained.unk_id, byte_fallback=trained.byte_fallback)
    if trained.model_type != BPE:
        raise TokenizerError(f"{path} is a SentencePiece model of words or characters: unigram or BPE was expected")
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    return models.BPE(
        ids, _merges(proto, ids), unk_token=trained.unk_piece, fuse_unk=True, byte_fallback=trained.byte_fallback
    )


def _merges(proto: Any, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Return the pairs that make each piece, best score first: the format does not store them."""
    merges = []
    for piece in proto.pieces:
        text = piece.piece
        halves = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        pairs = [(a, b) for a, b in halves if a in ids and b in ids]
        merges += [(-piece.score, ids[a], ids[b], (a, b)) for a, b in pairs]
    return [pair for *_, pair in sorted(merges)]
