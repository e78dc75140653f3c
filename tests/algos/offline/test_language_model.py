"""What trainers of language models share: what the policy is given, and what is saved."""

from dataclasses import dataclass

from textenv.algos import SFTConfig, create_policy
from textenv.algos.lm.models.loading import load_model
from textenv.algos.offline.language_model import LanguageModelTrainer


@dataclass(frozen=True)
class Stopping(SFTConfig):
    stop: tuple[str, ...] = ()


class Untrained(LanguageModelTrainer):
    """A trainer that has trained nothing."""

    _length = 0

    def _take_step(self):
        raise AssertionError("there is nothing to train on")

    def _data_hash(self):
        return "no data"

    def _parts(self):
        return {}

    def describe(self):
        return "what was trained"

    def _trained_by(self):
        return "my-method", "letters", 7


def test_the_policy_has_the_settings_of_the_config(fresh):
    plain = Untrained(*fresh, None, SFTConfig(max_completion_length=9, seed=4)).policy
    assert (plain.params.max_tokens, plain.params.stop) == (9, ())
    alone = create_policy(*fresh, {"max_tokens": 9, "seed": 4})
    assert plain(["ab", "c"]) == alone(["ab", "c"])
    assert Untrained(*fresh, None, Stopping(stop=("b",))).policy.params.stop == ("b",)


def test_the_card_says_what_was_trained_and_how(fresh, tmp_path):
    trainer = Untrained(*fresh, None, SFTConfig(epochs=5, lora_rank=2))
    trainer.save(tmp_path / "model")
    trainer.save_adapters(tmp_path / "mine")
    trainer.save_adapters(tmp_path / "peft", peft=True)
    for name, library in (("model", "mlx"), ("mine", "mlx"), ("peft", "peft")):
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert f"library_name: {library}\n" in card and "trained by my-method on `letters`" in card
        assert "in 7 optimizer steps" in card and "what was trained" in card
        assert "epochs = 5\nlora_rank = 2\n" in card and "seed" not in card


def test_what_is_saved_is_read_again(fresh, tmp_path):
    trainer = Untrained(*fresh, None, SFTConfig(lora_rank=2, seed=1))
    trainer.save_adapters(tmp_path / "adapters")
    trainer.save(tmp_path / "model")
    answers = trainer.policy(["ab", "c"], deterministic=True)[0]
    merged = create_policy(*load_model(tmp_path / "model"), {"max_tokens": 64})
    assert merged(["ab", "c"], deterministic=True)[0] == answers
