"""Hidden states by whole sequences, against a forward of each sequence alone."""

import numpy as np
import pytest

from textenv.algos.lm.models.head import split_head
from textenv.algos.lm.scoring.batch import make_batch
from textenv.algos.lm.scoring.plain import plain_hidden


@pytest.mark.parametrize(
    "prompts",
    [["12+30=", "a", "a", "the longest = "], ["1+1=", "2+2=", "2+2="]],
    ids=["ragged", "even"],
)
def test_states_are_those_that_predict_each_token(tiny, sample, prompts):
    import mlx.core as mx

    model, body = tiny[0], split_head(tiny[0])[0]
    batch = make_batch(sample(*tiny, prompts))
    hidden = np.array(plain_hidden(model, body, batch))
    assert hidden.shape[:2] == batch.token_ids.shape
    for row, states in enumerate(hidden):
        prompt = batch.prompts[batch.prompt_index[row]]
        length = int(batch.mask[row].sum())
        ids = prompt + batch.token_ids[row, :length].tolist()
        alone = np.array(body(mx.array([ids])))[0]
        np.testing.assert_allclose(states[:length], alone[len(prompt) - 1 : -1], atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_layers_train_meanwhile_and_are_what_they_were_afterwards(tiny, sample, training):
    model, body = tiny[0], split_head(tiny[0])[0]
    seen = []

    def watched(ids, cache=None):
        seen.append(model.training)
        if len(seen) > 1:
            raise RuntimeError("no states")
        return body(ids, cache)

    batch = make_batch(sample(*tiny, ["a"]))
    model.train(training)
    try:
        plain_hidden(model, watched, batch)
        with pytest.raises(RuntimeError, match="no states"):
            plain_hidden(model, watched, batch)
        assert seen == [True, True] and model.training is training
    finally:
        model.eval()
