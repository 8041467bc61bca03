"""Average causal traces of several prompts by the role of the token. Public as causal_trace.average.

Prompts have subjects of different lengths at different places, so their cells are put together by the role of the
token: first, middle and last token of the subject, the first one after it, further ones, and the last token of the
prompt. A token can have two roles (the only token of a subject is its first and its last), as in ROME's own averages.

Meng et al. 2022, Locating and Editing Factual Associations in GPT, figure 2 and appendix B.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cutaway.analyses.causal_trace.result import QUANTITIES, ROLES, TraceMeans
from cutaway.arguments import MOST_DRAWS, seed_of, whole
from cutaway.errors import InputError
from cutaway.results.bootstrap import means_over_documents
from cutaway.results.call import LONGEST, analysis, arguments_source
from cutaway.versions import versions

if TYPE_CHECKING:
    from cutaway.analyses.causal_trace.result import Trace


@analysis("causal_trace.average")
def average(traces: Iterable[Trace], resamples: int = 1000, seed: int = 0) -> TraceMeans:
    """Return means of traces over prompts, by role of the token and layer, with 95% bands from resampling prompts.

    Each prompt counts once: its tokens of one role (middle subject tokens, further tokens) are averaged first.

    Raises InputError for fewer than two traces, traces of different models, kinds or windows, or unfinished ones.
    """
    traces = list(traces)
    if len(traces) < 2:
        got = "1 trace was" if traces else "no traces were"
        raise InputError(f"{got} given: two or more prompts were expected to average over")
    resamples, seed = whole("resamples", resamples, 1, MOST_DRAWS), seed_of(seed)
    first = traces[0]
    for i, trace in enumerate(traces):
        if _setting(trace) != _setting(first):
            raise InputError(f"trace {i + 1} and trace 1 differ in model, kinds or windows: trace all prompts alike")
        if trace.done < len(trace.ids):
            raise InputError(f"trace {i + 1} is not finished: {trace.done} of {len(trace.ids)} positions are done")
    values = torch.stack([_by_role(trace) for trace in traces])  # prompt kind role layer quantity
    has = ~values[:, 0, :, 0, 0].isnan()  # prompt role
    # A resample without any prompt that has the role is NaN, and leaves the role without an interval.
    counts = has.double()[:, None, :, None, None]
    means, low, high = means_over_documents(values.nan_to_num(), counts, resamples, seed)
    return TraceMeans(
        meta=_meta(traces, resamples, seed),
        kinds=first.kinds,
        windows=first.windows,
        roles=list(ROLES),
        prompts=has.sum(0).tolist(),
        means=means,
        low=low,
        high=high,
        clean=sum(trace.clean for trace in traces) / len(traces),
        corrupted=sum(trace.corrupted for trace in traces) / len(traces),
    )


def role_positions(n: int, subject: range) -> dict[str, range]:
    """Return the positions of each role in a prompt of n tokens."""
    b, e = subject.start, subject.stop
    places = [range(b, b + 1), range(b + 1, e - 1), range(e - 1, e), range(e, min(e + 1, n)), range(e + 1, n - 1)]
    return dict(zip(ROLES, [*places, range(n - 1, n)], strict=True))


def _by_role(trace: Trace) -> Tensor:
    """Return a trace's means [kind, role, layer, quantity]; NaN for roles that no token of the prompt has."""
    values = torch.stack([getattr(trace, name) for name in QUANTITIES], -1)  # kind position layer quantity
    places = role_positions(len(trace.ids), trace.subject).values()
    return torch.stack([values[:, list(place)].mean(1) for place in places], 1)


def _setting(trace: Trace) -> tuple[object, ...]:
    """Return what must be the same in all traces: model, edits, kinds, windows and layers."""
    model = trace.meta["model"]["fingerprint"]
    return model, trace.meta["edits"], trace.kinds, trace.windows, trace.log_probabilities.shape[2]


def _meta(traces: list[Trace], resamples: int, seed: int) -> dict[str, Any]:
    """Return a result's meta, as describe() does.

    The call also makes the traces again, unless their calls would be too long or have more than two lines.
    """
    calls = [trace.meta["call"].split("\n", 1) for trace in traces]
    given = ",\n    ".join(call for _, call in calls)
    if len(given) > 4 * LONGEST or any("\n" in call for _, call in calls):
        given = f"...  # {len(traces)} calls of cutaway.causal_trace.trace"
    parameters = {"resamples": resamples, "seed": seed}
    arguments = ", ".join(["traces", *arguments_source("causal_trace.average", parameters)])
    call = f"{calls[0][0]}\ntraces = [\n    {given},\n]\ncutaway.causal_trace.average({arguments})"
    return {
        "model": traces[0].meta["model"],
        "input": [trace.meta["input"] for trace in traces],
        "parameters": parameters,
        "edits": traces[0].meta["edits"],
        "versions": versions(),
        "call": call,
    }
