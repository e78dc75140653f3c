"""Model cards: what they say, that text of users stays text, and that a user's page is kept."""

from __future__ import annotations

import re

import pytest

from textenv.algos import GRPOConfig, GRPOTrainer
from textenv.algos.lm.models.card import CARD, ModelCard, add_results, changed_settings, code

RESULTS = {
    "before": {
        "greedy": {"accuracy": 0.25, "examples": 300},
        "sampled": {"accuracy": 0.2, "examples": 300},
    },
    "after": {
        "greedy": {"accuracy": 0.955, "examples": 300},
        "sampled": {"accuracy": 0.9, "examples": 300},
    },
}


def metadata(text):
    """What the hub's own library reads."""
    hub = pytest.importorskip("huggingface_hub")
    return hub.ModelCard(text).data.to_dict()


def test_the_metadata_are_those_of_the_hub():
    card = ModelCard("GRPO", "Qwen/Qwen3-0.6B", "countdown", "LoRA rank 8", {}, 60)
    assert metadata(card.text()) == {
        "base_model": "Qwen/Qwen3-0.6B",
        "library_name": "mlx",
        "pipeline_tag": "text-generation",
        "tags": ["textenv", "mlx", "reinforcement-learning", "grpo"],
    }
    assert "`Qwen/Qwen3-0.6B` was trained on `countdown` by GRPO" in card.text()
    assert "60 optimizer steps" in card.text()


@pytest.mark.parametrize(
    "name", ["/models/mine", "./mine", "tiny-lm", 'a/b"\nlicense: mit', "a/b/c"]
)
def test_what_is_no_name_on_the_hub_is_not_in_the_metadata(name):
    """The hub refuses a page whose base model is a path, and a name may not add keys."""
    found = metadata(ModelCard("GRPO", name, None, "all weights").text())
    assert set(found) == {"library_name", "pipeline_tag", "tags"}


def test_a_folder_of_that_name_is_not_the_hubs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert "base_model" not in metadata(ModelCard("GRPO", "owner/model", None, "").text())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "`plain`"),
        ("a`b", "`` a`b ``"),
        ("``` x", "```` ``` x ````"),
        ("two\nlines\x1b[31m", "`two\\nlines\\x1b[31m`"),
        ("<script>", "`<script>`"),
        ("", "` `"),
    ],
)
def test_text_of_users_is_code(text, expected):
    assert code(text) == expected


def test_settings_cannot_leave_their_block():
    stop = ("```\n# Heading\n<img src=x>",)
    text = ModelCard("GRPO", None, None, "trained", {"stop": stop}).text()
    blocks = re.findall(r"^(`{3,})text\n(.*?)\n\1$", text, re.M | re.S)
    assert [inside for _, inside in blocks] == [
        "trained",
        'stop = ["```\\n# Heading\\n<img src=x>"]',
    ]
    outside = re.sub(r"^(`{3,})text\n.*?\n\1$", "", text, flags=re.M | re.S)
    assert "img" not in outside and "Heading" not in outside


def test_settings_that_differ():
    config = GRPOConfig(max_steps=3, stop=("x",))
    assert changed_settings(config) == {"max_steps": 3, "stop": ("x",)}
    assert changed_settings(GRPOConfig()) == {}


def test_results_become_a_table(tmp_path):
    (tmp_path / CARD).write_text(ModelCard("GRPO", "a/b", "t", "x", {}, 1).text())
    add_results(tmp_path, RESULTS)
    text = (tmp_path / CARD).read_text()
    table = ["| | before | after |", "|---|---|---|", "| accuracy, greedy | 0.250 | 0.955 |"]
    assert "\n".join([*table, "| accuracy, sampled | 0.200 | 0.900 |"]) in text
    assert "Measured on 300 held-out examples." in text
    assert text.index("greedy") < text.index("## Training")


@pytest.mark.parametrize("results", [{}, {"before": None, "after": None}])
def test_without_results_there_is_no_table(tmp_path, results):
    text = ModelCard("GRPO", "a/b", "t", "x").text()
    (tmp_path / CARD).write_text(text)
    add_results(tmp_path, results)
    assert "|" not in (tmp_path / CARD).read_text()


def test_a_task_without_right_answers_shows_rewards(tmp_path):
    (tmp_path / CARD).write_text(ModelCard("GRPO", "a/b", "t", "x").text())
    figures = {"greedy": {"accuracy": None, "reward": 1.5, "examples": 2}}
    add_results(tmp_path, {"before": None, "after": figures})
    assert "| | after |\n|---|---|\n| reward, greedy | 1.500 |" in (tmp_path / CARD).read_text()


def test_a_loss_is_shown_where_nothing_is_scored(tmp_path):
    (tmp_path / CARD).write_text(ModelCard("SFT", "a/b", None, "x").text())
    figures = {"held_out": {"loss": 0.51234, "rows": 7}}
    add_results(tmp_path, {"before": figures, "after": {"held_out": {"loss": 0.25, "rows": 7}}})
    assert "| loss, held out | 0.512 | 0.250 |" in (tmp_path / CARD).read_text()


@pytest.fixture
def trainer(fresh):
    model, tokenizer = fresh
    config = GRPOConfig(
        num_prompts=2, num_generations=2, max_completion_length=4, max_steps=1, lora_rank=2
    )
    return GRPOTrainer(model, config=config, tokenizer=tokenizer)


@pytest.mark.parametrize("door", ["save", "save_adapters"])
def test_a_page_of_the_users_own_stays(trainer, tmp_path, door):
    folder = tmp_path / "model"
    save = getattr(trainer, door)
    save(folder)
    first = (folder / CARD).read_text()
    assert "on `arithmetic`" in first and "lora_rank = 2" in first
    trainer.train()
    save(folder)  # our own page is replaced
    assert (folder / CARD).read_text() != first
    assert "in 1 optimizer step." in (folder / CARD).read_text()
    (folder / CARD).write_text("# Mine\n")
    save(folder)
    add_results(folder, RESULTS)
    assert (folder / CARD).read_text() == "# Mine\n"
    (folder / CARD).unlink()
    (folder / CARD).symlink_to(tmp_path / "elsewhere")
    save(folder)
    assert (folder / CARD).is_symlink() and not (tmp_path / "elsewhere").exists()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        save(folder)


def test_the_last_evaluation_of_the_training_is_told(fresh, tmp_path):
    model, tokenizer = fresh
    config = GRPOConfig(
        **{"num_prompts": 2, "num_generations": 2, "max_completion_length": 4, "max_steps": 2},
        **{"eval_steps": 1, "eval_examples": 3},
    )
    trainer = GRPOTrainer(model, config=config, tokenizer=tokenizer, out=tmp_path / "run")
    trainer.train()
    trainer.save(tmp_path / "model")
    accuracy, examples = trainer.evaluations.last.accuracy, trainer.evaluations.last.examples
    line = f"Last evaluation of the training: accuracy {accuracy:.3f} on {examples} held-out"
    assert line in (tmp_path / "model" / CARD).read_text()
    assert "Last evaluation of the training: " in (trainer.best.folder / CARD).read_text()


def test_adapters_say_which_library_reads_them(trainer, tmp_path):
    trainer.save_adapters(tmp_path / "a")
    assert metadata((tmp_path / "a" / CARD).read_text())["library_name"] == "mlx"
    assert "Adapters" in (tmp_path / "a" / CARD).read_text()
