"""Find the family of a model: by config.json's model_type, or by a configuration that was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from cutaway.errors import CheckpointError
from cutaway.model.architectures import gpt2
from cutaway.model.architectures.architecture import Architecture

# The configuration and weights of any family: a union, once there are several.
Config: TypeAlias = gpt2.Config
Weights: TypeAlias = gpt2.Weights

FAMILIES: dict[str, Architecture] = {gpt2.NAME: gpt2}


def architecture_of(config: Config) -> Architecture:
    """Return the family that a configuration belongs to."""
    return FAMILIES[config.architecture]


def read_config(raw: Mapping[str, Any], where: str) -> Config:
    """Read a config.json by its model_type. Raises CheckpointError for a family that is unknown, or as its Config does.

    Files of 2019 name no model_type and are known by the names of their sizes.
    """
    kind = raw.get("model_type")
    if kind is None and {"n_embd", "n_layer", "n_head"} <= set(raw):
        kind = gpt2.NAME
    if kind not in list(FAMILIES):  # a list, as kind may be anything that JSON holds
        known = " and ".join(f"{family.TITLE} models ({name!r})" for name, family in FAMILIES.items())
        raise CheckpointError(f"{where} says model_type {kind!r}: Cutaway opens {known} only")
    config: Config = FAMILIES[kind].Config.from_hf(raw, where)
    return config
