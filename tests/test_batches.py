"""The plan by which documents become batches, and the contents of rows."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutaway.errors import InputError
from cutaway.surveys.sinks import keys_of
from cutaway.text import corpus
from cutaway.text.batches import batches, windows
from cutaway.text.corpus import Document, open_corpus


class Letters:
    """A tokenizer that makes every character a token, and end-of-text token 0."""

    def bos(self):
        return [0]

    def ids(self, texts):
        return (np.array([ord(c) for c in text], dtype=np.int32) for text in texts)


def of_lengths(lengths):
    return open_corpus({f"d{i:03}": "".join(chr(97 + (i + j) % 26) for j in range(n)) for i, n in enumerate(lengths)})


def test_the_examples():
    found = list(batches(of_lengths([5, 9, 3, 0, 7, 1, 30]), Letters(), 20, 1024))
    assert [tuple(batch.tokens.ids.shape) for batch in found] == [(1, 30), (2, 9), (3, 5)]
    assert [[row.document for row in batch.rows] for batch in found] == [
        ["d006"],
        ["d001", "d004"],
        ["d000", "d002", "d005"],
    ]
    assert [batch.size for batch in found] == [30, 16, 9]
    assert [batch.left for batch in found] == [25, 9, 0]


def test_equal_lengths_go_by_document_and_offset():
    [batch] = batches(open_corpus([Document("b", "xxyy"), Document("a", "zz"), Document("c", "ww")]), Letters(), 100, 2)
    assert [(row.document, row.offset) for row in batch.rows] == [("a", 0), ("b", 0), ("b", 2), ("c", 0)]


def keys(row):
    return row.document, row.offset, row.number, row.front


plans = given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=25).filter(any),
    budget=st.integers(1, 90),
    context=st.integers(2, 30),
    group=st.integers(1, 8),
    bos=st.booleans(),
)


@plans
@settings(max_examples=40, deadline=None)
def test_every_token_of_every_document_exactly_once(lengths, budget, context, group, bos):
    source = of_lengths(lengths)
    texts = {document.id: document.text for document in source}
    seen, groups, spans = set(), [], []
    for batch in batches(source, Letters(), budget, context, group, bos):
        ids, mask = batch.tokens.ids, batch.tokens.mask
        assert ids.numel() <= budget or len(ids) == 1
        assert ids.shape[1] == max(len(row.ids) for row in batch.rows) <= context
        assert batch.size == int(mask.sum())
        keys = keys_of(batch)
        assert len(keys) == batch.size
        for document, offset, token in zip(keys.documents, keys.offsets, ids[mask.bool()].tolist(), strict=True):
            assert (document, offset) not in seen  # also a BOS has a place of its own
            seen.add((document, offset))
            assert token == (0 if offset < 0 else ord(texts[document][offset]))
        assert batch.tokens.rows() == [row.ids.tolist() for row in batch.rows]
        for row in batch.rows:
            assert list(texts)[row.number] == row.document
            spans.append((row.number // group, -len(row.ids), row.document, row.offset))
        groups.append({row.number // group for row in batch.rows})
    assert {key for key in seen if key[1] >= 0} == {(d, i) for d, text in texts.items() for i in range(len(text))}
    room = context - bos
    bos_tokens = [offset for _, offset in seen if offset < 0]
    assert len(bos_tokens) == bos * sum(math.ceil(len(text) / room) for text in texts.values())
    assert all(len(found) == 1 for found in groups)
    assert spans == sorted(spans)  # group by group; in each the longest first, then document and offset


@plans
@settings(max_examples=20, deadline=None)
def test_the_plan_is_the_same_each_time_and_packs_greedily(lengths, budget, context, group, bos):
    source = of_lengths(lengths)
    found = list(batches(source, Letters(), budget, context, group, bos))
    again = batches(source, Letters(), budget, context, group, bos)
    assert [[(*keys(row), row.ids.tolist()) for row in b.rows] for b in again] == [
        [(*keys(row), row.ids.tolist()) for row in b.rows] for b in found
    ]
    for batch, following in pairwise(found):
        if batch.rows[0].number // group == following.rows[0].number // group:
            assert len(batch.rows[0].ids) * (len(batch.rows) + 1) > budget


@pytest.mark.parametrize("bos", [False, True])
def test_long_documents_become_windows(bos):
    front = [99] if bos else []
    rows = windows([("empty", []), ("long", list(range(10)))], 4 + bos, front)
    assert [(row.document, row.offset, row.ids.tolist(), row.number) for row in rows] == [
        ("long", 0 - bos, [*front, 0, 1, 2, 3], 1),
        ("long", 4 - bos, [*front, 4, 5, 6, 7], 1),
        ("long", 8 - bos, [*front, 8, 9], 1),
    ]


@pytest.mark.parametrize("bos", [False, True])
def test_the_token_at_a_place_is_the_one_the_text_has_there(bundled, bos):
    tokenizer = bundled.tokenizer
    source = open_corpus({d.id: d.text[:9000] for d in corpus.bundled()[:4]} | {"short": "A word."})
    texts = {document.id: tokenizer.encode([document.text])[0][0] for document in source}
    n = 0
    for batch in batches(source, tokenizer, 2000, 256, bos=bos):
        keys = keys_of(batch)
        for document, offset, token in zip(
            keys.documents, keys.offsets, batch.tokens.ids[batch.tokens.mask.bool()].tolist(), strict=True
        ):
            assert token == (tokenizer.end_of_text if offset < 0 else texts[document][offset])
            n += offset >= 0
    assert n == sum(map(len, texts.values()))


def test_padding_is_masked_and_at_position_0():
    [batch] = batches(of_lengths([3, 1]), Letters(), 100, 10)
    assert torch.equal(batch.tokens.mask, torch.tensor([[1, 1, 1], [1, 0, 0]]))
    assert torch.equal(batch.tokens.positions, torch.tensor([[0, 1, 2], [0, 0, 0]]))


@pytest.mark.parametrize("group", [1, 7, 50])
def test_no_more_than_a_group_is_read_ahead(group):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield "some text"

    found = batches(open_corpus(endless()), Letters(), 100, 100, group)
    for n in range(1, 4):
        while next(found).rows[0].number // group < n - 1:
            pass
        assert read == n * group


@pytest.mark.parametrize(("budget", "context", "bos"), [(0, 10, False), (10, 0, False), (10, 1, True)])
def test_batches_of_nothing_are_refused(budget, context, bos):
    with pytest.raises(InputError, match=f"^batches of {budget} tokens in windows of {context}: at least 1"):
        list(batches(of_lengths([3]), Letters(), budget, context, bos=bos))
