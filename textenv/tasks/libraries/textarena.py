"""Plays the one-player games of the library TextArena: ``task="textarena:Mastermind-v0"``.

``task_kwargs`` are the parameters of the game. An episode is a whole game. Its transcript is what
TextArena shows a language model, and its reward is the game's, which comes with the last action.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

from textenv.errors import ConfigError, MissingDependencyError, unknown
from textenv.tasks.base import Episode, Example, Task, Turn, check_split, check_style, draw_seed
from textenv.tasks.libraries.contained import Contained

SOURCE = "textarena"
_NO_LIMIT = 1000  # maximum number of actions in a game that has no limit itself
_VARIANTS = ("-raw", "-train")  # the same games with other observations


def installed() -> bool:
    """Whether the library is installed; does not import it."""
    return importlib.util.find_spec("textarena") is not None


def names() -> list[str]:
    """Names of the one-player games that can be played on this machine."""
    return [
        f"{SOURCE}:{game}"
        for game, spec in sorted(_registry().items())
        if not game.endswith(_VARIANTS) and not _missing(spec.entry_point)
    ]


def describe(game: str) -> str:
    """The default settings of a game."""
    settings = _spec(game).kwargs
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


class TextArena(Task):
    """A game of TextArena as a task; an example's id is the seed of everything drawn in the game.

    The splits have different seeds, but two seeds may give the same game: Mastermind-v0 has only
    360 codes, and some games always start alike.

    Args:
        game: the library's name of the game.
        split: ``"train"`` or ``"test"``.
        style: ``"chat"`` shows the same words without the name of the player whose turn it is, and
            takes off what a policy thinks before it acts.
        **parameters: parameters of the game.

    Raises:
        ConfigError: for an unknown game, a game for several players, a game that needs something
            that this machine lacks, or parameters that the game refuses.
        MissingDependencyError: if TextArena is not installed.
    """

    def __init__(self, game: str, split: str = "train", style: str = "plain", **parameters: Any):
        check_split(split)
        check_style(style)
        self.name = f"{SOURCE}:{game}"
        self.split, self.style = split, style
        self._game, self._parameters = game, parameters
        if missing := _missing(_spec(game).entry_point):
            raise ConfigError(f"{self.name} {missing}")
        limit = self._begun(0)[0].state.max_turns
        # Before each turn, the game forgives one invalid move, which is an action but no turn of
        # the game. Twice the game's limit is therefore never reached before the game ends.
        self.max_turns = 2 * limit if limit else _NO_LIMIT

    def example(self, example_id: int) -> Example:
        """The seed and the first observation of the game with this id."""
        seed = draw_seed(example_id, self.split)
        game, contained = self._begun(seed)
        with contained.inside():
            said, asks = _said(game).lstrip("\n"), _asks(game)
        return {"prompt": said if self.style == "chat" else said + asks, "seed": seed}

    def begin(self, example: Example) -> Episode:
        """Start the game from the example's seed."""
        return _Game(*self._begun(example["seed"]), asks=self.style != "chat")

    def _begun(self, seed: int) -> tuple[Any, Contained]:
        """A game at its first turn, and the random states with which it continues."""
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
    """The episode of a game."""

    def __init__(self, game: Any, contained: Contained, asks: bool):
        self._game, self._contained, self._asks = game, contained, asks
        with contained.inside():
            _said(game)  # discarded: it is in the prompt already

    def step(self, action: str) -> Turn:
        """Play an action; the turn has the game's reply and, when the game ends, its reward."""
        with self._contained.inside():
            done, _ = self._game.step(action)
            text = _said(self._game)
            if not done:
                return Turn(text + (_asks(self._game) if self._asks else ""), 0.0, False)
            rewards, infos = self._game.close()
        reward = rewards[0]
        if isinstance(reward, str):  # in a lost game, four games swap the reward and the reason
            reward = infos[0]["reason"].removeprefix("Invalid Move: ")
        return Turn(text, float(reward), True)


def _said(game: Any) -> str:
    """What the game has said since the last call, as TextArena writes it for a language model."""
    import textarena

    while isinstance(game, textarena.Wrapper):  # some wrappers repeat everything said before
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
    """Make the task of a game; see `TextArena`."""
    return TextArena(game, **kwargs)


def _spec(game: str) -> Any:
    """The library's registry entry of a game."""
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
    """The reason why a game cannot be made on this machine; empty if it can.

    It is read from the source of the game, because the library does not say how many players a
    game has, and importing some games starts a download.
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
