"""The games for one player of TextArena: ``task="textarena:Mastermind-v0"``.

``task_kwargs`` are the parameters of the game. An episode is a whole game: the transcript is what
TextArena shows a language model, and the reward, which comes with the last action, the game's.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import random
from pathlib import Path
from typing import Any

from textenv.errors import ConfigError, MissingDependencyError, unknown
from textenv.tasks.base import Episode, Example, Task, Turn, check_split, split_of
from textenv.tasks.contained import Contained

SOURCE = "textarena"
_NO_LIMIT = 1000  # actions, for games without a limit of turns
_VARIANTS = ("-raw", "-train")  # the same game, shown in another way by the library


def installed() -> bool:
    """Whether the library is there; it is not imported."""
    return importlib.util.find_spec("textarena") is not None


def names() -> list[str]:
    """Names of the games for one player that have all they need here."""
    return [
        f"{SOURCE}:{game}"
        for game, spec in sorted(_registry().items())
        if not game.endswith(_VARIANTS) and not _missing(spec.entry_point)
    ]


def describe(game: str) -> str:
    """The settings that the library makes a game with."""
    settings = _spec(game).kwargs
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


class TextArena(Task):
    """One game; an example's id is the seed of all that is drawn in it.

    Its splits are of seeds. Seeds may hide the same thing: Mastermind-v0 has 360 codes in all,
    and some games always start alike.

    Args:
        game: the library's name for it.
        split: ``"train"`` or ``"test"``.
        **parameters: of the game.

    Raises:
        ConfigError: for an unknown game, one for several players, one that needs what is not
            here, or parameters that the game refuses.
        MissingDependencyError: where TextArena is not installed.
    """

    def __init__(self, game: str, split: str = "train", **parameters: Any):
        check_split(split)
        self.name = f"{SOURCE}:{game}"
        self.split, self._game, self._parameters = split, game, parameters
        if missing := _missing(_spec(game).entry_point):
            raise ConfigError(f"{self.name} {missing}")
        limit = self._begun(0)[0].state.max_turns
        # An invalid move is forgiven once and takes none of the game's turns, so that twice the
        # game's limit never comes before the game's own end.
        self.max_turns = 2 * limit if limit else _NO_LIMIT

    def example(self, example_id: int) -> Example:
        """The start of the game with this id."""
        if example_id < 0:
            raise ConfigError(f"example_id must be an integer >= 0, got {example_id}")
        rng = random.Random(example_id)
        seed = rng.randrange(2**32)
        while split_of(str(seed)) != self.split:
            seed = rng.randrange(2**32)
        game, contained = self._begun(seed)
        with contained.inside():
            return {"prompt": _said(game).lstrip("\n") + _asks(game), "seed": seed}

    def begin(self, example: Example) -> Episode:
        """Begin the game again, from the example's seed."""
        return _Game(*self._begun(example["seed"]))

    def _begun(self, seed: int) -> tuple[Any, Contained]:
        """A game at its first turn, and the random state that it goes on with."""
        import textarena

        contained = Contained(seed)
        with contained.inside():
            try:
                game = textarena.make(self._game, **self._parameters)
                game.reset(num_players=1, seed=seed)
            except (AssertionError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"{self.name} refuses task_kwargs {self._parameters}: {error}"
                ) from error
        return game, contained


class _Game(Episode):
    """A game being played."""

    def __init__(self, game: Any, contained: Contained):
        self._game, self._contained = game, contained
        with contained.inside():
            _said(game)  # what the prompt holds already

    def step(self, action: str) -> Turn:
        """Play an action: what the game says to it, and its reward where it ends."""
        with self._contained.inside():
            done, _ = self._game.step(action)
            text = _said(self._game)
            if not done:
                return Turn(text + _asks(self._game), 0.0, False)
            rewards, infos = self._game.close()
        reward = rewards[0]
        if isinstance(reward, str):  # four games swap the reward and the reason of a lost game
            reward = infos[0]["reason"].removeprefix("Invalid Move: ")
        return Turn(text, float(reward), True)


def _said(game: Any) -> str:
    """What the game has said since the last call, as TextArena writes it for a language model."""
    import textarena

    while isinstance(game, textarena.Wrapper):  # some would repeat all that was said before
        game = game.env
    _, messages = game.get_observation()
    return "".join(
        f"\n[GAME] {message}"
        for sender, message, kind in messages
        if sender == textarena.GAME_ID and kind != textarena.ObservationType.PLAYER_ACTION
    )


def _asks(game: Any) -> str:
    return f"\n[{game.state.role_mapping.get(0, 'Player 0')}] "


def make(game: str, **kwargs: Any) -> TextArena:
    """The task of a game; see `TextArena`."""
    return TextArena(game, **kwargs)


def _spec(game: str) -> Any:
    """What the library has registered under this name."""
    registry = _registry()
    if game not in registry:
        known = [name.removeprefix(f"{SOURCE}:") for name in names()]
        raise ConfigError(unknown("game of TextArena", game, known))
    return registry[game]


def _registry() -> Any:
    try:
        from textarena.envs.registration import ENV_REGISTRY
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "textarena", extra="tasks", purpose=f"task {SOURCE}:GAME"
        ) from error
    return ENV_REGISTRY


@functools.cache
def _missing(entry_point: str) -> str:
    """Why a game can't be made here; empty where it can.

    Read from its source: the library does not say how many play, and importing some games
    starts a download.
    """
    import textarena

    module = entry_point.partition(":")[0].split(".")[1:]
    path = Path(textarena.__file__).parent.joinpath(*module).with_suffix(".py")
    try:
        source = path.read_text(encoding="utf-8")
        if "SinglePlayerState(" not in source:
            return "is not a game for one player"
        ast.parse(source)
    except (OSError, SyntaxError) as error:
        return f"is broken in this version of TextArena: {error}"
    if "OpenRouterAgent(" in source and "OPENROUTER_API_KEY" not in os.environ:
        return "asks a model on the network: set OPENROUTER_API_KEY"
    if "nltk" in source and (lists := _word_lists_missing(source)):
        return (
            "needs word lists of nltk that are not on this machine: "
            f"python -m nltk.downloader {' '.join(lists)}"
        )
    return ""


def _word_lists_missing(source: str) -> list[str]:
    import nltk

    needed = {"words": "corpora/words"}
    if "pos_tag" in source:
        needed["averaged_perceptron_tagger_eng"] = "taggers/averaged_perceptron_tagger_eng"
    missing = []
    for name, place in needed.items():
        try:
            nltk.data.find(place)
        except LookupError:
            missing.append(name)
    return missing
