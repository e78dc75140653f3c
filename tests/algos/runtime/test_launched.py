"""What a process knows of those that started it."""

from textenv.algos.runtime.launched import is_follower, is_rank


def test_the_environment_says_which_rank_it_is(monkeypatch):
    for value, found in ((None, (False, False)), ("0", (True, False)), ("3", (True, True))):
        monkeypatch.delenv("MLX_RANK", raising=False)
        if value is not None:
            monkeypatch.setenv("MLX_RANK", value)
        assert (is_rank(), is_follower()) == found
