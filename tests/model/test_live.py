"""Every form of a GPT-2 in memory: the logits of its own forward, or a refusal that docs/checkpoints.md explains."""

import warnings

import accelerate
import peft
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers import (
    AttentionInterface,
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    pipeline,
)
from transformers.models.gpt2 import modeling_gpt2

import cutaway
from cutaway.errors import CheckpointError, CutawayWarning, InputError
from tests.model.reference import random_gpt2
from tests.model.test_checkpoint_forms import DOCS, IDS, TINY
from tests.test_tokens import copy_vocabulary


def fresh(**config):
    return random_gpt2(**TINY | config)


def opened(theirs, said=""):
    """Load it, and compare with the logits of a model's own forward, or with another's."""
    if not said:
        return cutaway.load(theirs, device="cpu")
    with pytest.warns(CutawayWarning) as caught:
        model = cutaway.load(theirs, device="cpu")
    assert len(caught) == 1
    assert said in str(caught[0].message)
    assert caught[0].filename == __file__
    return model


@torch.no_grad()
def agrees(model, theirs, ids=IDS):
    torch.testing.assert_close(model.run(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)


# --- objects ---


class Mine(GPT2LMHeadModel):
    """A subclass without a forward of its own."""


class RenamedConfig(GPT2Config):
    model_type = "mine"


class Renamed(GPT2LMHeadModel):
    config_class = RenamedConfig


class WithValueHead(nn.Module):
    """As TRL's AutoModelForCausalLMWithValueHead holds a model."""

    def __init__(self, model):
        super().__init__()
        self.pretrained_model, self.v_head = model, nn.Linear(32, 1)


def compiled_in_place(model):
    model.compile()
    return model


WRAPPED = {
    "itself": lambda model: model,
    "GPT2Model": lambda model: model.transformer,
    "DataParallel": nn.DataParallel,
    "torch.compile": torch.compile,
    "compile in place": compiled_in_place,
    "DataParallel of torch.compile": lambda model: nn.DataParallel(torch.compile(model)),
    "a value head": WithValueHead,
    "dispatched": lambda model: accelerate.dispatch_model(model, device_map={"": "cpu"}, force_hooks=True),
    "training": lambda model: model.train(),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_holds_a_model(wrap):
    theirs = fresh()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = opened(wrap(theirs))
    assert model.name == ("GPT2Model" if wrap is WRAPPED["GPT2Model"] else "GPT2LMHeadModel")
    agrees(model, fresh())


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Mine, ""),
        (Renamed, ""),
        (GPT2DoubleHeadsModel, "multiple_choice_head.summary is left out"),
        (GPT2ForSequenceClassification, "score is left out"),
        (GPT2ForTokenClassification, "classifier is left out"),
        (GPT2ForQuestionAnswering, "qa_outputs is left out"),
    ],
)
def test_other_classes(kind, said):
    theirs = kind((kind.config_class or GPT2Config)(**TINY))
    theirs.transformer.load_state_dict(fresh().transformer.state_dict())
    model = opened(theirs, said)
    assert model.name == kind.__name__
    agrees(model, fresh())


def test_a_pipeline_brings_its_tokenizer(tmp_path):
    copy_vocabulary(tmp_path)
    theirs = random_gpt2(n_embd=8, n_head=2, n_layer=1)
    generator = pipeline("text-generation", model=theirs, tokenizer=GPT2TokenizerFast.from_pretrained(tmp_path))
    model = cutaway.load(generator, device="cpu")
    assert model.run("Aritra").tokens.rows() == [[32, 799, 430]]
    agrees(model, theirs)


# --- what was done to it, and is honoured ---


def attention_that_only_moves(model):
    model.set_attn_implementation("sdpa")


def look_at_states(model):
    """transformers puts hooks of its own into a model that was asked for its states."""
    model(IDS, output_hidden_states=True, output_attentions=True)
    assert any(module._forward_hooks for module in model.modules())


def another_activation(model):
    for block in model.transformer.h:
        block.mlp.act = nn.ReLU()
    model.config.activation_function = "relu"


def another_eps(model):
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 0.1
    model.config.layer_norm_epsilon = 0.1


HONOURED = {
    "fewer blocks": lambda model: setattr(model.transformer, "h", model.transformer.h[:1]),
    "another order": lambda model: setattr(model.transformer, "h", model.transformer.h[::-1]),
    "no dropout": lambda model: setattr(model.transformer, "drop", nn.Identity()),
    "another activation everywhere": another_activation,
    "another epsilon everywhere": another_eps,
    "states were looked at": look_at_states,
    "another attention of transformers'": attention_that_only_moves,
    "a hook on gradients": lambda model: model.transformer.wte.weight.register_hook(lambda grad: grad * 2),
    "merged parametrizations": lambda model: parametrize.remove_parametrizations(halved(model), "weight"),
}


def halved(model):
    class Half(nn.Module):
        def forward(self, weight):
            return weight / 2

    parametrize.register_parametrization(model.transformer.h[0].mlp.c_fc, "weight", Half())
    return model.transformer.h[0].mlp.c_fc


@pytest.mark.parametrize("change", HONOURED.values(), ids=HONOURED)
def test_changes_that_count(change):
    theirs = fresh()
    change(theirs)
    agrees(opened(theirs), theirs)


def test_a_head_of_its_own_is_said():
    theirs = fresh()
    theirs.lm_head = nn.Linear(32, 53, bias=False)
    agrees(opened(theirs, "is read as a head of its own"), theirs)


def test_adapters_that_were_merged():
    both = adapted(fresh())
    with torch.no_grad():
        want = both(IDS).logits
    assert (want - fresh()(IDS).logits).abs().max() > 0.1
    model = cutaway.load(both.merge_and_unload(), device="cpu")
    torch.testing.assert_close(model.run(IDS).logits, want, atol=2e-5, rtol=0)


# --- what was done to it, and is refused ---


class Own(GPT2LMHeadModel):
    def forward(self, *args, **options):
        return super().forward(*args, **options)


class Scaled(modeling_gpt2.Conv1D):
    def forward(self, x):
        return 2 * super().forward(x)


LORA = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)


def adapted(model, config=LORA):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's use of a name that transformers gives up
        return peft.get_peft_model(model, config)


def block(model):
    return model.transformer.h[0]


def set_on(pick, name, value):
    return lambda model: setattr(pick(model), name, value)


def attention_of_ones_own(model):
    AttentionInterface.register("mine", lambda module, q, k, v, *args, **options: (v.transpose(1, 2), None))
    model.set_attn_implementation("mine")


def quantized(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def offloaded(model):
    accelerate.cpu_offload(model, execution_device="cpu")


HOOK, FORWARD = "has a forward hook", "has a forward written over its class's"
OTHER, AGREE = (
    "was expected, and Cutaway computes what one does",
    "Cutaway computes what the configuration says, make them",
)
REFUSED = {  # a change, or a model made of the plain one: what the message says, and the docs; and where it is
    "a hook": (lambda m: m.register_forward_hook(lambda *seen: None) and None, HOOK, "it has"),
    "a hook inside": (lambda m: block(m).mlp.register_forward_hook(lambda *seen: None) and None, HOOK, "h.0.mlp"),
    "a hook before": (lambda m: block(m).ln_1.register_forward_pre_hook(lambda *seen: None) and None, HOOK, "h.0.ln_1"),
    "a hook on a wrapper": (lambda m: hooked(nn.DataParallel(m)), HOOK, "it has"),
    "pruned weights": (
        lambda m: prune.l1_unstructured(block(m).mlp.c_fc, "weight", 0.5) and None,
        HOOK,
        "h.0.mlp.c_fc",
    ),
    "a weight norm": (lambda m: halved(m) and None, "has parametrized weights", "h.0.mlp.c_fc"),
    "a forward written over": (set_on(lambda m: block(m).mlp, "forward", lambda x: x), FORWARD, "h.0.mlp"),
    "a class of one's own": (lambda m: Own(m.config), "has a forward of its own", "Own"),
    "an activation": (set_on(lambda m: block(m).mlp, "act", nn.ReLU()), OTHER, "h.0.mlp.act is a ReLU: a NewGELU"),
    "another activation said": (set_on(lambda m: m.config, "activation_function", "relu"), OTHER, "h.0.mlp.act"),
    "a LayerNorm": (set_on(block, "ln_2", nn.Identity()), OTHER, "h.0.ln_2 is a Identity"),
    "an RMSNorm": (set_on(block, "ln_2", nn.RMSNorm(32)), OTHER, "h.0.ln_2 is a RMSNorm"),
    "a square Linear": (set_on(lambda m: block(m).attn, "c_proj", nn.Linear(32, 32)), OTHER, "h.0.attn.c_proj"),
    "a Conv1D of one's own": (
        set_on(lambda m: block(m).attn, "c_proj", Scaled(32, 32)),
        "has a forward of its own",
        "c_proj",
    ),
    "a quantized head": (quantized, OTHER, "lm_head is a torch.ao.nn.quantized.dynamic"),
    "a bias of the head": (set_on(lambda m: m, "lm_head", nn.Linear(32, 53)), "lm_head has a bias", ""),
    "a module more": (set_on(block, "gate", nn.Linear(2, 2)), "is a module that a GPT-2 does not have", "h.0.gate"),
    "max_norm": (set_on(lambda m: m.transformer.wte, "max_norm", 1.0), "has max_norm", "wte"),
    "a LayerNorm's epsilon": (set_on(lambda m: m.transformer.ln_f, "eps", 1e-3), AGREE, "ln_f.eps is 0.001, and"),
    "another epsilon said": (set_on(lambda m: m.config, "layer_norm_epsilon", 0.1), AGREE, "h.0.ln_1.eps is 1e-05"),
    "other heads said": (set_on(lambda m: m.config, "n_head", 2), AGREE, "h.0.attn.num_heads is 4, and"),
    "another scale said": (
        set_on(lambda m: m.config, "scale_attn_weights", False),
        AGREE,
        "scale_attn_weights is True",
    ),
    "another scale": (set_on(lambda m: block(m).attn, "scaling", 1.0), AGREE, "h.0.attn.scaling is 1.0"),
    "not causal": (set_on(lambda m: block(m).attn, "is_causal", False), "Cutaway opens causal models only", "h.0.attn"),
    "not causal, said": (
        set_on(lambda m: m.config, "is_causal", False),
        "Cutaway opens causal models only",
        "is_causal",
    ),
    "an attention": (attention_of_ones_own, "has an attention of its own", "h.0.attn"),
    "pruned heads": (set_on(lambda m: block(m).attn, "pruned_heads", {1}), "has heads pruned", "h.0.attn"),
    "offloaded": (offloaded, "is on the meta device", "wte.weight"),
    "LoRA": (lambda m: adapted(m), "has adapters beside its weights", "merge_and_unload()"),
    "LoRA inside": (lambda m: adapted(m).base_model.model, "is an adapter's", "h.0.attn.c_attn"),
    "add_adapter": (lambda m: m.add_adapter(LORA), "is an adapter's", "merge_and_unload()"),
    "prompt tuning": (
        lambda m: adapted(m, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
        "has adapters beside its weights",
        "model.get_base_model()",
    ),
}


def hooked(model):
    model.register_forward_hook(lambda *seen: None)
    return model


@pytest.mark.parametrize(("change", "message", "where"), REFUSED.values(), ids=REFUSED)
def test_changes_that_are_refused(change, message, where):
    theirs = fresh()
    theirs = change(theirs) or theirs
    with pytest.raises(CheckpointError) as caught:
        cutaway.load(theirs, device="cpu")
    assert message in str(caught.value)
    assert where in str(caught.value)
    assert message in DOCS
    assert "\n" not in str(caught.value)


def test_a_hook_on_every_module():
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *seen: None)
    try:
        with pytest.raises(CheckpointError, match="torch has a forward hook on every module, which Cutaway would not"):
            cutaway.load(fresh(), device="cpu")
    finally:
        handle.remove()
    agrees(opened(fresh()), fresh())


def test_a_class_whose_forward_was_replaced(monkeypatch):
    monkeypatch.setattr(modeling_gpt2.GPT2MLP, "forward", lambda self, x: x)
    with pytest.raises(CheckpointError, match=r"h\.0\.mlp's class GPT2MLP has a forward of its own"):
        cutaway.load(fresh(), device="cpu")


def test_blocks_that_are_scaled_by_their_place():
    theirs = fresh(scale_attn_by_inverse_layer_idx=True)
    agrees(opened(theirs), theirs)
    theirs.transformer.h = theirs.transformer.h[::-1]
    with pytest.raises(CheckpointError, match=r"h\.0\.attn\.scaling is 0\.17\d+, and .* makes it 0\.35\d+: "):
        cutaway.load(theirs, device="cpu")


@pytest.mark.parametrize(
    "theirs",
    [
        lambda: nn.Linear(2, 2),
        lambda: nn.DataParallel(nn.Linear(2, 2)),
        lambda: nn.Sequential(fresh()),
        lambda: GPTNeoForCausalLM(
            GPTNeoConfig(hidden_size=8, num_layers=1, attention_types=[[["global"], 1]], num_heads=2, vocab_size=20)
        ),
        lambda: fresh().state_dict(),
    ],
    ids=["Linear", "DataParallel of Linear", "Sequential", "GPT-Neo", "a state dict"],
)
def test_what_is_not_a_gpt2(theirs):
    message = r"was given: a folder, a hub id or a transformers GPT-2 \(such as GPT2LMHeadModel\) was expected$"
    with pytest.raises(CheckpointError, match=message):
        cutaway.load(theirs(), device="cpu")


@pytest.mark.parametrize("device", ["meta", "meta:0", torch.device("meta")])
def test_the_meta_device(device):
    with pytest.raises(
        InputError, match=r"^device 'meta' has no memory, so nothing can be computed there; try 'cpu' or"
    ):
        cutaway.load(device=device)


@pytest.mark.parametrize("device", ["hpu", "privateuseone", "pluto", "", "cpu:-1", "cpu\0", None, 2**64, 1.5, ["cpu"]])
def test_devices_that_are_none(device):
    with pytest.raises(InputError, match=r"^device .* cannot be used: .*; try 'cpu' or 'auto'$"):
        cutaway.load(device=device)


@pytest.mark.parametrize("source", [None, fresh()], ids=["bundled", "a live model"])
def test_a_revision_of_what_has_none(source):
    with pytest.raises(CheckpointError, match=r"^revision='main' is for a hub id, and none was given: leave it out$"):
        cutaway.load(source, revision="main")
    with pytest.raises(CheckpointError, match=r"^revision=5 was given: a hub branch, tag or commit was expected$"):
        cutaway.load(source, revision=5)


@pytest.mark.parametrize("live", [True, False])
def test_weights_made_in_inference_mode_let_gradients_through(tmp_path, live):
    fresh().save_pretrained(tmp_path)
    with torch.inference_mode():
        source = fresh().half() if live else tmp_path
        model = cutaway.load(source, device="cpu", dtype="float16" if live else None)
    run = model.run(IDS, capture="resid_pre", grad=True)
    run.logits.float().square().sum().backward()
    assert all(run[site].grad.abs().max() > 0 for site in ("blocks.0.resid_pre", "blocks.1.resid_pre"))
