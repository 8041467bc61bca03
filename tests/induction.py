"""Build a model of two layers whose heads are written by hand: two of them, and no others, continue repetitions."""

import torch

import cutaway
from tests.model.reference import random_gpt2

V = P = 24
TOKEN, PLACE, BEFORE = slice(0, V), slice(V, V + P), slice(V + P, 2 * V + P)  # one-hot parts of the stream
D, K = 2 * V + P + 2, (2 * V + P + 2) // 2
SHARP, CONSTANT, SURE = 300.0, 200.0, 20.0
START = V - 1


def model():
    """Return the model, in float64.

    Head 0.0 looks at the previous token, and writes down which it was. Head 1.0 looks at tokens equal to the query's.
    Head 1.1 looks at positions where 0.0 has written down the query's token, and predicts their tokens (induction);
    where there are none it looks at position 0, and for the token START it writes nothing. Head 0.1 keeps its random
    weights; it and 1.0 hardly write anything.

    Two large constants, opposite in sign, are nearly all of a state's variance, so that LayerNorms do next to nothing.
    """
    model = random_gpt2(
        n_embd=D, n_head=2, n_layer=2, n_inner=8, vocab_size=V, n_positions=P, bos_token_id=None, eos_token_id=None
    )
    body, eye = model.transformer, torch.eye(V)
    with torch.no_grad():
        for block in body.h:
            for weight in [*block.mlp.parameters(), block.attn.c_attn.bias, block.attn.c_proj.bias, block.ln_1.bias]:
                weight.zero_()
            block.ln_1.weight.fill_(CONSTANT * (2 / D) ** 0.5)
        body.ln_f.bias.zero_()
        body.ln_f.weight.fill_(CONSTANT * (2 / D) ** 0.5)
        body.wte.weight.zero_()
        body.wte.weight[:, TOKEN] = eye
        body.wpe.weight.zero_()
        body.wpe.weight[:, PLACE] = torch.eye(P)
        body.wpe.weight[:, -2], body.wpe.weight[:, -1] = CONSTANT, -CONSTANT
        first, second = (block.attn for block in body.h)
        first.c_attn.weight[-2:] = 0
        second.c_attn.weight[-2:] = 0
        first.c_proj.weight[K:] *= 0.01
        second.c_proj.weight[:K] *= 0.01

        def look(attn, head, query, key, matrix):
            """Make a head attend where the query's one-hot part, times a matrix, equals the key's."""
            W_Q, W_K = (attn.c_attn.weight[:, start + head * K :][:, :K] for start in (0, D))
            W_Q.zero_()
            W_K.zero_()
            W_Q[query, : len(matrix)] = SHARP * matrix
            W_K[key, : len(matrix)] = torch.eye(len(matrix))

        def write(attn, head, part, times):
            """Make a head write the tokens that it attends to into a part of the stream."""
            of_head = slice(head * K, (head + 1) * K)
            W_V, W_O = attn.c_attn.weight[:, 2 * D :][:, of_head], attn.c_proj.weight[of_head]
            W_V.zero_()
            W_O.zero_()
            W_V[TOKEN, :V] = eye
            W_O[:V, part] = times * eye

        look(first, 0, PLACE, PLACE, torch.diag(torch.ones(P - 1), -1))  # i asks for i - 1
        write(first, 0, BEFORE, 1)
        look(second, 0, TOKEN, TOKEN, eye)
        look(second, 1, TOKEN, BEFORE, eye)
        write(second, 1, TOKEN, SURE)
        second.c_attn.weight[START, 2 * D :] = 0
        second.c_attn.weight[-2, K + V] = SHARP / 2 / CONSTANT  # every query of 1.1 asks a little for position 0
        second.c_attn.weight[PLACE.start, D + K + V] = 1
    return cutaway.load(model, device="cpu", dtype="float64")


def repetitions(rows, seed=0):
    """Return START, then different random tokens twice over: ids [rows, P - 1]."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.stack([torch.randperm(START, generator=generator)[: P // 2 - 1] for _ in range(rows)])
    return torch.cat([torch.full((rows, 1), START), half, half], 1)
