"""Models, prompts and the reward: figures worked by hand, and what torch reads."""

import numpy as np
import pytest

from tests.algos.bench.shared import BY_HAND, WORK
from textenv.algos import load_model
from textenv.algos.bench.workload import MODEL_SIZES, batches, digits, make_model, random_prompts
from textenv.algos.lm.models.properties import count_parameters


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    make_model(MODEL_SIZES["tiny"], folder, seed=0)
    return folder


def test_parameters_by_hand():
    # Queries and output 64 x 64 each, keys and values 64 x 32 each, three matrices of 64 x 192.
    assert BY_HAND.layer_matrices == 2 * 4096 + 2 * 2048 + 3 * 12_288 == 49_152
    # The embedding, the layer, its two norms of 64 and two of 16, the last norm.
    assert BY_HAND.parameters == 6_400 + 49_152 + 2 * 64 + 2 * 16 + 64
    assert MODEL_SIZES["small"].parameters == 800_640
    assert round(MODEL_SIZES["medium"].parameters / 1e6) == 27


def test_the_model_that_is_made_loads_and_has_these_parameters(tiny_folder):
    model, tokenizer = load_model(tiny_folder)
    assert count_parameters(model) == MODEL_SIZES["tiny"].parameters
    text = "a 1+2=\n~"
    assert (
        len(tokenizer.encode(text)) == len(text)
        and tokenizer.decode(tokenizer.encode(text)) == text
    )
    assert tokenizer.eos_token_ids == {1}


def test_torch_reads_the_same_model(tiny_folder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import mlx.core as mx

    model, _ = load_model(tiny_folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    ids = tokenizer.encode("12+30=ab")
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits.numpy()
    found = np.array(model(mx.array([ids])))
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_seed_makes_one_model(tmp_path, tiny_folder):
    for name, seed in (("again", 0), ("other", 1)):
        make_model(MODEL_SIZES["tiny"], tmp_path / name, seed)
    weights = [
        (folder / "model.safetensors").read_bytes()
        for folder in (tiny_folder, tmp_path / "again", tmp_path / "other")
    ]
    assert weights[0] == weights[1] != weights[2]


def test_prompts_and_reward():
    prompts = random_prompts(WORK, 200, seed=3)
    assert {len(p) for p in prompts} == set(range(8, 13))
    assert prompts == random_prompts(WORK, 200, seed=3) != random_prompts(WORK, 200, seed=4)
    found = batches(WORK, seed=3)  # one that is not timed, and two that are, of 2 x 4
    assert [len(batch) for batch in found] == [8, 8, 8]
    assert len({prompt for batch in found for prompt in batch}) == 24
    assert digits("a1b2") == 0.5 and digits("") == 0.0
