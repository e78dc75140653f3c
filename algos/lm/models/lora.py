"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685), which train few new weights.

DoRA (Liu et al. 2024, arXiv 2402.09353) also trains the length of each row of the adapted weights.

Dropout of adapters is off unless a seed is set, so that sampling and scoring know one and the same
policy. The update sets a seed of its own for each microbatch. A layer draws by its number and that
seed alone, so that a layer which the backward computes again drops the same inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from textenv.algos.runtime import backend
from textenv.errors import ConfigError, unknown

backend.prepare()

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402


class AdapterDropout(nn.Module):
    """Sets some inputs of an adapter to 0 and enlarges the others, while a seed is set.

    Args:
        share: the share of the inputs to drop.
        number: the layer's number: layers of one seed drop different inputs.
    """

    def __init__(self, share: float, number: int):
        super().__init__()
        self.share, self.number = share, number
        self.seed: int | None = None

    def __call__(self, x: mx.array) -> mx.array:
        """The inputs (..., inputs), as they are if no seed is set."""
        if self.seed is None or not self.share:
            return x
        own = np.random.SeedSequence((self.seed, self.number)).generate_state(1)[0]
        kept = mx.random.bernoulli(1 - self.share, x.shape, key=mx.random.key(int(own)))
        return x * kept.astype(x.dtype) * (1 / (1 - self.share))


def adapt(model: nn.Module, config: Any) -> None:
    """Give a model the adapters that a trainer's settings ask for, in place; see `add_lora`.

    Args:
        model: an mlx-lm model.
        config: settings with ``lora_rank`` and the others of LoRA. Rank 0 changes nothing.
    """
    if config.lora_rank:
        add_lora(
            model,
            config.lora_rank,
            config.lora_scale,
            config.seed,
            layers=config.lora_layers,
            targets=config.lora_targets,
            dropout=config.lora_dropout,
            dora=config.dora,
        )


def add_lora(
    model: nn.Module,
    rank: int,
    scale: float,
    seed: int,
    *,
    layers: int = -1,
    targets: Sequence[str] = (),
    dropout: float = 0.0,
    dora: bool = False,
) -> None:
    """Freeze a model but for low-rank adapters of its linear layers, in place.

    If a model has adapters already, they stay as they are, and only they are trained.

    Args:
        model: an mlx-lm model.
        rank: the rank of each adapter.
        scale: factor of the outputs of new adapters (PEFT's ``lora_alpha`` divided by the rank).
        seed: seed of the first factors of new adapters; the second ones start at zero.
        layers: how many layers of the model have adapters, from the last; -1: all.
        targets: names of the modules that have adapters, such as ``q_proj`` or
            ``self_attn.q_proj``; empty: every linear one of a layer.
        dropout: share of the adapters' inputs that an update drops, see `seed_dropout`.
        dora: whether new adapters are DoRA's.

    Raises:
        ConfigError: if a target or so many layers are not there, or if the model has adapters of
            another rank, kind or place.
    """
    present = lora_layers(model)
    if present:
        _check_rank(present, rank)
        _check_places(model, present, layers, targets, dora)
        freeze_base(model)
    else:
        places = adapter_places(model, layers, targets)
        insert_adapters(model, places, rank, scale, dora)
        freeze_base(model)
        _draw(model, seed)
    for number, (_, layer) in enumerate(lora_layers(model)):
        layer.dropout = AdapterDropout(dropout, number)
    mx.eval(model.parameters())


def freeze_base(model: nn.Module) -> None:
    """Let only a model's adapters be trained."""
    model.freeze()
    for _, layer in lora_layers(model):
        layer.unfreeze(recurse=False)


def adapter_places(model: nn.Module, layers: int = -1, targets: Sequence[str] = ()) -> list[str]:
    """The full names of the modules that adapters are for, see `add_lora`.

    Raises:
        ConfigError: if a target or so many layers are not there.
    """
    blocks = list(model.layers)
    if layers > len(blocks):
        raise ConfigError(f"lora_layers={layers}, and the model has {len(blocks)} layers")
    found = _linear_modules(model, blocks if layers < 0 else blocks[len(blocks) - layers :])
    for target in targets:
        if not any(_is_called(name, target) for name in found):
            known = dict.fromkeys(name.rpartition(".")[2] for name in found)
            raise ConfigError(unknown("module in lora_targets", target, known))
    return [name for name in found if not targets or any(_is_called(name, t) for t in targets)]


def _linear_modules(model: nn.Module, blocks: Sequence[nn.Module]) -> list[str]:
    """The full names of the modules in some blocks that can have adapters, as the model has them.

    Those that have adapters count as the modules that they adapt.
    """
    inside = {id(module) for block in blocks for _, module in block.named_modules()}
    adapted = {name for name, _ in lora_layers(model)}
    modules, linear = dict(model.named_modules()), _linear_classes()
    return [
        name
        for name, module in reversed(modules.items())  # MLX walks from the last
        if id(module) in inside
        and name.rpartition(".")[0] not in adapted
        and (name in adapted or isinstance(module, linear) or hasattr(module, "to_lora"))
    ]


@functools.cache
def _linear_classes() -> tuple[type[nn.Module], ...]:
    """The classes of linear layers."""
    # mlx_lm takes one to three seconds to import. Trainings on control import this module too.
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

    return nn.Linear, nn.QuantizedLinear, SwitchLinear, QuantizedSwitchLinear


def is_adaptable(module: Any) -> bool:
    """Whether mlx-lm has an adapter for a module that has none yet."""
    embeddings = nn.Embedding, nn.QuantizedEmbedding
    return isinstance(module, (*_linear_classes(), *embeddings)) or hasattr(module, "to_lora")


def _is_called(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def insert_adapters(
    model: nn.Module, places: Iterable[str], rank: int, scale: float, dora: bool
) -> None:
    """Put new adapters of mlx-lm's classes in the places of modules, with factors of any content.

    Args:
        model: an mlx-lm model.
        places: the full names of the modules.
        rank: the rank of each adapter.
        scale: factor of the outputs.
        dora: whether they are DoRA's.

    Raises:
        ConfigError: for DoRA of a module that mlx-lm has it not for.
    """
    from mlx_lm.tuner.dora import DoRALinear
    from mlx_lm.tuner.utils import linear_to_lora_layers

    keys, modules = set(places), dict(model.named_modules())
    if dora:
        for name in sorted(keys):
            layer = modules[name]
            if not isinstance(layer, (nn.Linear, nn.QuantizedLinear)) or hasattr(layer, "to_lora"):
                raise ConfigError(
                    f"DoRA has no adapters for {name}, a {type(layer).__name__}: leave it out of "
                    "lora_targets, or turn dora off"
                )
    settings = {"rank": rank, "scale": scale, "dropout": 0.0, "keys": keys}
    linear_to_lora_layers(model, 1, settings, dora)
    for number, (name, layer) in enumerate(lora_layers(model)):
        layer.dropout = AdapterDropout(0.0, number)
        base = modules.get(name)
        if isinstance(layer, DoRALinear) and isinstance(base, nn.QuantizedLinear):
            # mlx-lm gets the width wrong for 3, 5 and 6 bits.
            layer.lora_a = mx.zeros((base.weight.shape[1] * 32 // base.bits, rank))


def _draw(model: nn.Module, seed: int) -> None:
    """Draw the first factors of all adapters."""
    key = mx.random.key(seed)
    for _, module in lora_layers(model):
        factors = []
        for factor in _first_factors(module):
            key, own = mx.random.split(key)
            # (inputs, rank), or for experts (experts, rank, inputs)
            bound = factor.shape[0 if factor.ndim == 2 else -1] ** -0.5
            factors.append(mx.random.uniform(-bound, bound, factor.shape, key=own))
        module.lora_a = factors if isinstance(module.lora_a, list) else factors[0]


def _check_rank(present: list[tuple[str, Any]], rank: int) -> None:
    ranks = {adapter_rank(layer) for _, layer in present}
    if ranks - {rank}:
        found = ", ".join(map(str, sorted(ranks)))
        raise ConfigError(
            f"lora_rank={rank}, and the model has adapters of rank {found} already: set lora_rank "
            "to their rank to go on from them, or save the model, which merges them, and load that"
        )


def _check_places(
    model: nn.Module,
    present: list[tuple[str, Any]],
    layers: int,
    targets: Sequence[str],
    dora: bool,
) -> None:
    """Refuse settings of new adapters that do not describe those which are there."""
    if dora and not all(is_dora(layer) for _, layer in present):
        raise ConfigError("dora=True, and the model has adapters of LoRA already: leave it unset")
    if layers < 0 and not targets:
        return
    wanted, there = set(adapter_places(model, layers, targets)), {name for name, _ in present}
    if wanted != there:
        odd = sorted(wanted ^ there)[0]
        which = "lora_targets" if targets else "lora_layers"
        raise ConfigError(
            f"the model has adapters already, and {odd} is {'not ' * (odd in wanted)}one of their "
            f"places: leave {which} unset to go on from them"
        )


def seed_dropout(model: nn.Module, seed: int | None) -> None:
    """Turn the dropout of a model's adapters on, or off if the seed is None."""
    for _, layer in lora_layers(model):
        if isinstance(layer.dropout, AdapterDropout):
            layer.dropout.seed = seed


def has_dropout(model: nn.Module) -> bool:
    """Whether a model's adapters drop inputs in updates."""
    return any(dropout_of(layer) for _, layer in lora_layers(model))


def dropout_seed(*numbers: int) -> int:
    """A seed for `seed_dropout` of a training's seed, its step and its microbatch."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def dropout_of(layer: Any) -> float:
    """The share of inputs that an adapter drops in updates."""
    return layer.dropout.share if isinstance(layer.dropout, AdapterDropout) else 0.0


def is_dora(layer: Any) -> bool:
    """Whether a layer's adapter is DoRA's."""
    return "m" in layer


def _first_factors(module: Any) -> list[mx.array]:
    """The first factor of a layer's adapter; several of a layer that computes several products."""
    return module.lora_a if isinstance(module.lora_a, list) else [module.lora_a]


def adapter_rank(layer: Any) -> int:
    """The rank of a layer's adapter."""
    factor = _first_factors(layer)[0]
    return factor.shape[-1 if factor.ndim == 2 else -2]


def has_lora(model: nn.Module) -> bool:
    """Whether the model has low-rank adapters."""
    return bool(lora_layers(model))


def lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """The layers of a model that have adapters, by name."""
    return [(name, m) for name, m in model.named_modules() if "lora_a" in m and "lora_b" in m]
