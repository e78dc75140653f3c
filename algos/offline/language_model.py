"""What trainers of language models from files share: the model, its policy, and how it is saved."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from textenv.algos.offline.loop import TrainsOnData
from textenv.algos.runtime import backend

backend.prepare()

from textenv.algos.lm.generation.policy import create_policy  # noqa: E402
from textenv.algos.lm.models.adapters import save_adapters  # noqa: E402
from textenv.algos.lm.models.card import ModelCard, changed_settings  # noqa: E402
from textenv.algos.lm.models.loading import resolve_model  # noqa: E402
from textenv.algos.lm.models.lora import adapt  # noqa: E402
from textenv.algos.lm.models.saving import save_model  # noqa: E402

_OF_THE_POLICY = ("chat_template", "chat_template_kwargs", "stop", "seed")


class LanguageModelTrainer(TrainsOnData):
    """A language model that is trained from files: loads it, and writes it with its model card.

    Args:
        model: a name or folder for `load_model`, or an mlx-lm model (with ``tokenizer``).
        tokenizer: the tokenizer, if ``model`` is an mlx-lm model.
        adapters: a folder of adapters to go on from, if ``model`` is a name or folder.
        config: the settings of the trainer, with those of LoRA and ``max_completion_length``.

    Attributes:
        policy: the policy that is trained; usable at any time.
    """

    def __init__(self, model: Any, tokenizer: Any, adapters: str | Path | None, config: Any):
        self.config = config
        self.model, self.tokenizer = resolve_model(model, tokenizer, adapters)
        adapt(self.model, config)
        names = [name for name in _OF_THE_POLICY if hasattr(config, name)]
        self.policy = create_policy(
            self.model,
            self.tokenizer,
            {"max_tokens": config.max_completion_length}
            | {name: getattr(config, name) for name in names},
        )

    @abstractmethod
    def describe(self) -> str:
        """Describe in one line what is trained, and on what data."""

    @abstractmethod
    def _trained_by(self) -> tuple[str, str | None, int]:
        """The method, the task if there is one, and how many optimizer steps were taken."""

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder that `mlx_lm.load` and `load_model` read."""
        save_model(self.model, self.tokenizer, folder, card=self._card())
        self._after_save(folder)

    def save_adapters(self, folder: str | Path, peft: bool = False) -> None:
        """Write the adapters alone; see `GRPOTrainer.save_adapters`."""
        save_adapters(self.model, folder, peft, self._card("peft" if peft else "mlx"))

    def _card(self, adapters: str | None = None) -> str:
        method, task, steps = self._trained_by()
        base = getattr(self.model, "source_name", None)
        settings = changed_settings(self.config)
        told = method, base, task, self.describe(), settings, steps
        return ModelCard(*told, adapters=adapters).text()
