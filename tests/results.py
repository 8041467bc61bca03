"""One result of every analysis, on the bundled model; a text that is hard to show; a model without a tokenizer."""

import functools

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import cutaway
from tests.model.reference import ODD, random_gpt2

EVIL = "</script><img src=x onerror=alert(1)>"
HARD = f"Naïve café 東京 😀\n\n\ttab {EVIL} <!-- &amp; ' \" \\ {'-' * 80} end"

OTHER = HARD.replace("end", "war")  # of as many tokens


@functools.cache
def make(model):
    """Results by the name of their analysis."""
    results = [
        cutaway.predictions.next_tokens(model, ["The people of the United", " a", f"{EVIL} <!--"], top=4),
        cutaway.predictions.along(model, HARD, top=5),
        cutaway.predictions.losses(model, {"short": "The people of the United States", EVIL: HARD}),
        cutaway.anatomy.read(model),
        cutaway.anatomy.tokens(model, HARD),
        cutaway.verify(model),
        cutaway.logit_lens.read(model, HARD, top=3, targets=[" the"]),
        cutaway.logit_lens.average(model, {"short": "The people of the United States", EVIL: HARD}),
        cutaway.attribution.direct(model, HARD, " the", " of", neurons=5),
        cutaway.attribution.gradient(model, HARD, " the", sites="resid_post"),
        cutaway.attribution.integrated(model, HARD, " the", " of", steps=8),
        cutaway.patching.run(model, HARD, OTHER, ["resid_pre", "attn.z"], "kl", positions=[0, 1, -1]),
        cutaway.patching.attribution(model, HARD, OTHER, "attn.z", answer=" the", versus=" of", exact=True),
        cutaway.patching.path(model, HARD, OTHER, ["heads", "mlps"], answer=" the", versus=" of"),
        cutaway.attention.read(model, HARD, repeats=1),
        cutaway.attention.average(model, {"short": "The people of the United States", EVIL: HARD}, resamples=50),
        cutaway.causal_trace.trace(model, HARD, EVIL, " the", samples=2, window=2),
        cutaway.causal_trace.average(
            [
                cutaway.causal_trace.trace(model, text, "people", samples=1, noise=noise)
                for text, noise in (("The people of the United", 3.0), ("the people", 1.0))
            ],
            resamples=50,
        ),
        cutaway.ablation.run(
            model,
            {"short": "The people of the United States", EVIL: HARD},
            ["heads", "mlps", "layers", "embed"],
            metric="kl",
        ),
        cutaway.states.measure(model, {EVIL: HARD}, layers=[0, 1], sample=40, replicates=19, resamples=20),
        cutaway.states.gaussian(64, samples=40),
        cutaway.norms.measure(model, HARD),
        cutaway.norms.regress(model, {"short": "The people of the United States are free", EVIL: HARD}, shuffles=20),
        cutaway.unigram.read(model, top=4, also=[" war", 3]),
        cutaway.unigram.compare(model, {"short": "The people of the United States", EVIL: HARD}),
        cutaway.unigram.claim(model, {"short": "The people of the United States", EVIL: HARD}, resamples=50),
        cutaway.unigram.edit(model, {" the": 0.5, ".": -0.2}, ["The people of the United", HARD]),
        cutaway.unigram.edit_effects(
            model, " the", (0.5, 1), [HARD], prompts=["The people", EVIL], samples=1, max_new_tokens=6
        ),
    ]
    return {result.analysis: result for result in results}


NAMES = [
    "predictions.next_tokens",
    "predictions.along",
    "predictions.losses",
    "anatomy.read",
    "anatomy.tokens",
    "verify",
    "logit_lens.read",
    "logit_lens.average",
    "attribution.direct",
    "attribution.gradient",
    "attribution.integrated",
    "patching.run",
    "patching.attribution",
    "patching.path",
    "attention.read",
    "attention.average",
    "causal_trace.trace",
    "causal_trace.average",
    "ablation.run",
    "states.measure",
    "states.gaussian",
    "norms.measure",
    "norms.regress",
    "unigram.read",
    "unigram.compare",
    "unigram.claim",
    "unigram.edit",
    "unigram.edit_effects",
]


def save_tiny(folder, text="the war in the north and the war in the south", pieces=None, **config):
    """A small GPT-2 in a folder, with a tokenizer whose merges are a text's, or whose only words are `pieces`."""
    if pieces is None:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bytes_ = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=bytes_, show_progress=False
        )
        tokenizer.train_from_iterator([text], trainer)
    else:
        tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    size = tokenizer.get_vocab_size()
    sizes = {"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
    random_gpt2(**{"vocab_size": size} | sizes | config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def save_wordless(folder):
    """An untied model of odd sizes, without a tokenizer, in a folder; transformers' own."""
    model = random_gpt2(**ODD, tie_word_embeddings=False)
    model.save_pretrained(folder)
    return model
