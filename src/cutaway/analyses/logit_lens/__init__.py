"""Read each layer's state as if it were the last, and see what the model would predict: the logit lens.

    lens = read(model, "The people of the United", targets=[" States"])
    lens.chart(); lens.kl; lens.top_tokens[layer][position]
    average(model, corpus)                   means over a corpus by layer, with intervals over documents

Every state of the residual stream goes through the final LayerNorm, with the state's own statistics, and the
unembedding. After the last block that is the model's own output. Metrics are in nats; p is the lens' distribution and
q the model's own at the same position:

    entropy   H(p)                      kl    KL(q || p) = sum q log(q / p)
    loss      -log p(next token)        js    H((p + q) / 2) - (H(p) + H(q)) / 2
    rank      of the next token         tv    sum |p - q| / 2   (no unit)

nostalgebraist 2020, interpreting GPT: the logit lens. Belrose et al. 2023, Eliciting Latent Predictions from
Transformers with the Tuned Lens, section 2.
"""

from __future__ import annotations

from cutaway.analyses.logit_lens.lens import average, read
from cutaway.analyses.logit_lens.result import Lens, LensMeans

__all__ = ["Lens", "LensMeans", "average", "read"]
