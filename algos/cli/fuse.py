"""textenv fuse: merges adapters into the model that they were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from textenv.algos.cli.shared.escape import say
from textenv.algos.lm.models.loading import load_model
from textenv.algos.lm.models.properties import describe_trained
from textenv.algos.lm.models.saving import save_model


@dataclass
class Args:
    """Merge adapters into the model that they were trained on, and save it as a model."""

    model: Annotated[str, tyro.conf.Positional]
    """tiny-lm, a folder, or a name on the Hugging Face hub."""
    adapters: Annotated[Path, tyro.conf.Positional]
    """A folder of adapters, as trainers here, mlx-lm and PEFT write them."""
    out: Annotated[Path, tyro.conf.Positional]
    """The folder to write; an earlier model in it is replaced."""
    seed: int = 0
    """Unused; every command has this option."""


def run(args: Args) -> int:
    """Write the merged model."""
    model, tokenizer = load_model(args.model, args.adapters)
    save_model(model, tokenizer, args.out)
    say(f"{args.out}: {args.model} with {describe_trained(model)} merged")
    return 0
