"""Draw the noise that hides a subject.

    sigma = noise_level(model, prompt, 3.0, None)           three standard deviations of the subject's token embeddings
    sigma * draw_noise("gaussian", seed, samples, positions, width)

Meng et al. 2022, Locating and Editing Factual Associations in GPT, section 2.1 and appendix B.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cutaway.analyses.causal_trace.prompt import Prompt
from cutaway.arguments import seed_of, shown, whole
from cutaway.errors import InputError
from cutaway.text.tokens import as_texts

if TYPE_CHECKING:
    from cutaway.model.model import Model

Distribution: TypeAlias = Literal["gaussian", "uniform"]
MOST_SAMPLES = 10_000  # draws of noise, each as large as the subject's states


def noise_level(model: Model, prompt: Prompt, noise: float, noise_from: Sequence[str] | None) -> float:
    """Return the noise's standard deviation: `noise` times that of all entries of the subjects' token embeddings.

    The subjects are the texts of `noise_from`, each tokenized by itself; None for this prompt's subject.
    """
    if isinstance(noise, bool) or not isinstance(noise, Real) or not 0 <= noise < 1e30:  # float32 holds 1e38
        raise InputError(f"noise={shown(noise)}: a number of standard deviations, 0 or more, was expected")
    ids = [prompt.ids[i] for i in prompt.subject]
    if noise_from is not None:
        ids = [i for row in model.tokenizer.encode(as_texts(noise_from))[0] for i in row]
        if not ids:
            raise InputError("noise_from holds no token: some subjects were expected, or None for this prompt's own")
    return float(noise) * float(model.weights.W_E[torch.tensor(ids, device=model.device)].detach().double().std())


def draw_noise(distribution: Distribution, seed: int, samples: int, positions: range, width: int) -> Tensor:
    """Return noise of unit size [sample, position, width], float64: standard normal, or uniform from -1 to 1.

    Each sample's noise at each position has a random stream of its own, so that it is the same for any number of
    samples and positions.
    """
    if distribution not in ("gaussian", "uniform"):
        raise InputError(f"distribution={distribution!r} is unknown: 'gaussian' or 'uniform' was expected")
    samples, seed = whole("samples", samples, 1, MOST_SAMPLES), seed_of(seed)
    drawn = np.empty((samples, len(positions), width))
    for sample in range(samples):
        for i, position in enumerate(positions):
            generator = np.random.default_rng((seed, sample, position))
            if distribution == "gaussian":
                drawn[sample, i] = generator.standard_normal(width)
            else:
                drawn[sample, i] = generator.uniform(-1, 1, width)
    return torch.from_numpy(drawn)
