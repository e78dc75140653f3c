"""The loss of supervised training is that of TRL on the same rows."""

from __future__ import annotations

import pytest

from tests.algos.offline.test_sft import ROWS, make
from textenv.algos import load_model


def test_loss_is_that_of_trl(tiny_folder, tmp_path):
    """Its own trainer on the same rows, by its own tokenizing of prompt and completion."""
    pytest.importorskip("trl")
    pytest.importorskip("accelerate")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig as TheirConfig
    from trl import SFTTrainer as TheirTrainer

    rows = [{"prompt": row["prompt"], "completion": row["answer"]} for row in ROWS]
    args = TheirConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=len(rows),
        max_steps=1,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
    )
    theirs = TheirTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_folder, dtype="float32"),
        args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_folder),
    )
    theirs.train()
    logged = theirs.state.log_history[0]
    (ours,) = make(load_model(tiny_folder), rows, epochs=1).train()
    assert ours["loss"] == pytest.approx(logged["loss"], rel=1e-5)
    assert ours["mean_token_accuracy"] == pytest.approx(logged["mean_token_accuracy"])
    assert ours["entropy"] == pytest.approx(logged["entropy"], rel=1e-4)
    assert ours["grad_norm"] == pytest.approx(logged["grad_norm"], rel=1e-4)
    assert ours["num_tokens"] == logged["num_tokens"]
