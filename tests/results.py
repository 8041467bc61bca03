"""One result of every analysis, on the bundled model; a text that is hard to show; a model without a tokenizer."""

import functools

import cutaway
from tests.model.reference import ODD, random_gpt2

EVIL = "</script><img src=x onerror=alert(1)>"
HARD = f"Naïve café 東京 😀\n\n\ttab {EVIL} <!-- &amp; ' \" \\ {'-' * 80} end"


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
        cutaway.similarity.measure(model, {EVIL: HARD}, layers=[0, 1], sample=40, replicates=2, resamples=20),
        cutaway.similarity.gaussian(64, samples=40),
        cutaway.norms.measure(model, HARD),
        cutaway.norms.regress(model, {"short": "The people of the United States are free", EVIL: HARD}, shuffles=20),
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
    "similarity.measure",
    "similarity.gaussian",
    "norms.measure",
    "norms.regress",
]


def save_wordless(folder):
    """An untied model of odd sizes, without a tokenizer, in a folder; transformers' own."""
    model = random_gpt2(**ODD, tie_word_embeddings=False)
    model.save_pretrained(folder)
    return model
