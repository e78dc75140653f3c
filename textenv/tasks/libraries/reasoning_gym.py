"""Plays the datasets of the library reasoning-gym as tasks: ``task="reasoning_gym:chain_sum"``.

``task_kwargs`` are fields of the dataset's own config. ``{"level": n}`` sets them from the
dataset's curriculum, to its n-th level counted from 0; other fields given with it are kept.

Many verifiers of the library pay a text that is wrong. Measured on ten examples of each dataset,
with texts that have nothing to do with the question, with answers to other questions, and with
answers that were changed a little:

- A consolation of 0.01 to 0.05 for almost any text: ``advanced_geometry``, ``color_cube_rotation``,
  ``countdown``, ``emoji_mystery``, ``fraction_simplification``, ``palindrome_generation``,
  ``power_function``, ``prime_factorization``, ``puzzle24``, ``rubiks_cube``, ``rush_hour``,
  ``sentence_reordering`` and ``tsumego``; for some texts ``codeio`` and ``gsm_symbolic``; for
  anything of the right form ``arc_agi``, ``boxnet``, ``cryptarithm``, ``graph_color``,
  ``group_anagrams``, ``jugs``, ``propositional_logic``, ``rearc`` and ``tower_of_hanoi``.
- The share of the text that the answer is, if the text contains it (0.4 for ``The answer is 42`` or
  so), in about half of all datasets, ``chain_sum`` among them.
- A score by how near the answer is, which is true partial credit: ``calendar_arithmetic``,
  ``coin_flip``, ``complex_arithmetic``, ``emoji_mystery``, ``figlet_font``, ``futoshiki``,
  ``game_of_life``, ``knights_knaves``, ``letter_jumble``, ``mini_sudoku``, ``modulo_grid``,
  ``polynomial_equations``, ``quantum_lock``, ``rectangle_count``, ``sentence_reordering``,
  ``spell_backward``, ``sudoku``, ``time_intervals`` and ``word_sorting``.

A policy learns to collect what is paid, such as by writing less. A wrong answer therefore scores 0
here, and ``{"partial_credit": True}`` in ``task_kwargs`` gives the library's own scores. Full marks
are given to any text by the verifier of ``game_of_life_halting``, and to ``nan`` by that of
``complex_arithmetic``; here only the answer is right.

In ``isomorphic_strings`` and ``ransom_note`` the library draws from sets of strings, and the
wording of the answers of three more datasets depends on such sets. For these, an id gives the
same example in every process only if the environment variable ``PYTHONHASHSEED`` is set.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.util
import json
import random
from typing import Any

from textenv.errors import ConfigError, MissingDependencyError, unknown
from textenv.rewards.limits import DEFAULT_SECONDS, run_limited
from textenv.tasks.base import Example, GeneratedTask, check_level, check_split, check_style
from textenv.tasks.libraries.contained import Contained
from textenv.tasks.libraries.unsafe_verifiers import defuse, is_safe

SOURCE = "reasoning_gym"
_SEEDS = 2**32 - 1  # NumPy's generators take no larger seed
_NOT_ALONE = ("composite",)  # consists of other datasets, which task_kwargs must name

# These datasets read files or build tables when they are made, which takes up to a second, but
# draw no random numbers yet. A copy with another seed therefore equals a new one (tested).
_COSTLY = (
    "arc_agi",
    "base_conversion",
    "codeio",
    "emoji_mystery",
    "figlet_font",
    "group_anagrams",
    "n_queens",
    "spell_backward",
    "word_ladder",
)
# All answers of these datasets are numbers (measured on 150 to 200 examples of each).
NUMBERS = (
    "aiw",
    "basic_arithmetic",
    "binary_alternation",
    "chain_sum",
    "circuit_logic",
    "count_bits",
    "count_primes",
    "decimal_arithmetic",
    "decimal_chain_sum",
    "gcd",
    "gsm_symbolic",
    "largest_island",
    "lcm",
    "leg_counting",
    "letter_counting",
    "maze",
    "number_format",
    "number_sequence",
    "products",
    "rectangle_count",
    "rotten_oranges",
    "self_reference",
    "simple_equations",
    "simple_geometry",
)
_TO_ANSWER = {
    True: ("\nReply with the number only.", "last_number"),
    False: ("\nWrite your final answer as <answer>...</answer>.", "tag:answer"),
}
# If several answers are right, some datasets give one of them only in the metadata.
_ANSWER_KEYS = ("example_correct_answer", "example_answer", "possible_answer")


def installed() -> bool:
    """Whether the library is installed; does not import it."""
    return importlib.util.find_spec("reasoning_gym") is not None


def names() -> list[str]:
    """Names of the datasets that can be made without ``task_kwargs``."""
    return sorted(f"{SOURCE}:{name}" for name in _factory().DATASETS if name not in _NOT_ALONE)


def describe(dataset: str) -> str:
    """The library's category of a dataset, and the library's description of it."""
    made_by, _ = _known(dataset)
    says = (made_by.__doc__ or "").strip().partition("\n")[0].rstrip(".:")
    kind = made_by.__module__.split(".")[1]
    return f"{kind}: {says}" if says else kind


class ReasoningGym(GeneratedTask):
    """A dataset of reasoning-gym as a task without end; an example's id is the seed to draw it.

    Args:
        dataset: the library's name of the dataset.
        split: ``"train"`` or ``"test"``, by a hash of the question.
        style: ``"chat"`` adds a line to the question that says how to answer: with the number
            only, if all answers of the dataset are numbers, or in ``<answer>`` tags.
        level: level of the dataset's curriculum, from 0; None for the dataset's defaults.
        partial_credit: whether answers that are not right may score, as the library scores them.
        **config: fields of the dataset's config.

    Raises:
        ConfigError: for an unknown dataset, field or level, or values that the dataset refuses.
        MissingDependencyError: if reasoning-gym is not installed.
    """

    verifier_timeout: float = DEFAULT_SECONDS

    def __init__(
        self,
        dataset: str,
        split: str = "train",
        style: str = "plain",
        level: int | None = None,
        partial_credit: bool = False,
        **config: Any,
    ):
        check_split(split)
        check_style(style)
        if not isinstance(partial_credit, bool):
            raise ConfigError(f"partial_credit must be true or false, got {partial_credit!r}")
        self.name = f"{SOURCE}:{dataset}"
        self.split, self.style, self._partial_credit = split, style, partial_credit
        self._how, self.chat_extract = _TO_ANSWER[dataset in NUMBERS]
        self._class, config_class = _known(dataset)
        self._costly = dataset in _COSTLY
        self._source_name = dataset
        defuse(dataset, self._class.__module__)
        fields = {field.name for field in dataclasses.fields(config_class)} - {"seed", "size"}
        if wrong := sorted(config.keys() - fields):
            raise ConfigError(
                unknown(
                    f"parameter of {self.name}",
                    wrong[0],
                    [*sorted(fields), "level", "partial_credit"],
                )
            )
        given = config if level is None else {"level": level, **config}
        self._fields, self._level = config, level
        self._at_levels: dict[int, ReasoningGym] = {}
        if _factory().has_curriculum(dataset):
            self.levels = range(_top(_factory().create_curriculum(dataset)) + 1)
        if level is not None:
            config = {**self._of_level(dataset, level), **config}
        try:
            self._config = config_class(**config)
            with Contained(0).inside():
                self._dataset = self._made(0)
        except (AssertionError, TypeError, ValueError) as error:  # the library's own checks
            raise ConfigError(f"{self.name} refuses task_kwargs {given}: {error}") from error

    @property
    def level(self) -> int | None:
        """Level of the dataset's curriculum; None if the task was made without a level."""
        return self._level

    def at_level(self, level: int) -> ReasoningGym:
        """The same dataset at another level of its curriculum; the user's fields are kept."""
        check_level(self, level)
        if level not in self._at_levels:  # some datasets take a second to make
            made = ReasoningGym(
                self._source_name,
                self.split,
                self.style,
                level,
                self._partial_credit,
                **self._fields,
            )
            made.verifier_timeout = self.verifier_timeout
            self._at_levels[level] = made
        return self._at_levels[level]

    def with_timeout(self, seconds: float) -> ReasoningGym:
        """The same dataset, whose verifier is cut off after so many seconds."""
        other = copy.copy(self)
        other.verifier_timeout, other._at_levels = seconds, {}
        return other

    def generate(self, rng: random.Random) -> Example:
        """Draw a seed, and return the first item of the dataset with this seed.

        Each example is the first item of a new dataset, because datasets with neighbouring seeds
        share items.
        """
        seed = rng.randrange(1, _SEEDS)
        with Contained(seed).inside():
            entry = self._made(seed)[0]
        return {
            "prompt": entry["question"],
            "answer": entry["answer"],
            "metadata": entry.get("metadata", {}),
        }

    def chat_prompt(self, example: Example) -> str:
        """The question, and a line that says how to answer."""
        return example["prompt"] + self._how

    def score(self, example: Example, completion: str) -> float:
        """The score of the dataset's own verifier, which runs in a process with a time limit.

        It is 0 if the verifier fails, takes too long, or would run the completion. A score below
        1 is 0 too, unless the task was made with ``partial_credit``.
        """
        score = self._score(example, completion)
        return score if self._partial_credit else float(score >= 1.0)

    def _score(self, example: Example, completion: str) -> float:
        if self._source_name == "game_of_life_halting" and completion.strip() != example["answer"]:
            return 0.0  # its verifier takes any text that is not empty for the answer
        if self._source_name == "complex_arithmetic" and "nan" in completion.lower():
            return 0.0  # its verifier takes min(1.0, nan), which is 1.0
        if not is_safe(self._source_name, completion):
            return 0.0
        entry = {
            "question": example["prompt"].removesuffix(self._how),
            "answer": example["answer"],
            "metadata": example["metadata"],
        }
        if not self._class.__module__.startswith("reasoning_gym."):
            return _score(self._dataset, entry, completion)  # another process may not find it
        verifier = self._class, self._source_name, _Config(self._config)
        outcome = run_limited(_verify, (*verifier, entry, completion), self.verifier_timeout)
        return outcome if isinstance(outcome, float) else 0.0

    def oracle(self, example: Example) -> str:
        """The dataset's answer, or an answer in its metadata, that scores full marks.

        Raises:
            NotImplementedError: if none of them scores full marks by the dataset's own verifier.
        """
        found = [example["answer"], *(example["metadata"].get(key) for key in _ANSWER_KEYS)]
        for answer in found:
            if answer is not None:
                text = answer if isinstance(answer, str) else json.dumps(answer)
                if self.score(example, text) >= 1.0:
                    tagged = self.style == "chat" and self.chat_extract == "tag:answer"
                    return f"<answer>{text}</answer>" if tagged else text
        raise NotImplementedError(
            f"{self.name} has no answer for this example that scores full marks"
        )

    def _made(self, seed: int) -> Any:
        if self._costly and seed:
            made = copy.copy(self._dataset)
            made.seed = seed
            return made
        return self._class(config=dataclasses.replace(self._config, seed=seed, size=1))

    def _of_level(self, dataset: str, level: int) -> dict[str, Any]:
        """The config's fields at a level; an attribute with fewer levels is at its last one."""
        factory = _factory()
        if not factory.has_curriculum(dataset):
            raise ConfigError(
                f"{self.name} has no curriculum and therefore no levels: set its fields instead"
            )
        check_level(self, level)
        curriculum = factory.create_curriculum(dataset)
        for name, attribute in curriculum.attributes.items():
            curriculum.set_attr_level(name, min(level, len(attribute.levels) - 1))
        return vars(curriculum.generate_configuration())


class _Config:
    """A dataset's config as a key of a cache: equal if it reads the same."""

    def __init__(self, fields: Any):
        self.fields, self._text = fields, repr(fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Config) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


def _score(dataset: Any, entry: dict[str, Any], completion: str) -> float:
    with Contained(0).inside():
        try:
            return float(dataset.score_answer(completion, entry))
        except Exception:  # three verifiers raise if a text is not an answer at all
            return 0.0


def _verify(made_by: Any, name: str, config: _Config, entry: Any, completion: str) -> float:
    """The score of a completion; what the process of verifiers calls."""
    return _score(_verifier(made_by, name, config), entry, completion)


@functools.lru_cache(maxsize=32)
def _verifier(made_by: Any, name: str, config: _Config) -> Any:
    defuse(name, made_by.__module__)
    with Contained(0).inside():
        return made_by(config=dataclasses.replace(config.fields, seed=0, size=1))


_verify.prepare = lambda *arguments: _verifier(*arguments[:3])  # type: ignore[attr-defined]


def make(dataset: str, **kwargs: Any) -> ReasoningGym:
    """Make the task of a dataset; see `ReasoningGym`."""
    return ReasoningGym(dataset, **kwargs)


def _top(curriculum: Any) -> int:
    """The highest level of any attribute of a curriculum."""
    return max((len(each.levels) for each in curriculum.attributes.values()), default=1) - 1


def _known(dataset: str) -> tuple[type[Any], type[Any]]:
    """The class of a dataset and the class of its config."""
    known = _factory().DATASETS
    if dataset not in known:
        raise ConfigError(unknown("reasoning-gym dataset", dataset, sorted(known)))
    return known[dataset]


def _factory() -> Any:
    try:
        import reasoning_gym.factory
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "reasoning-gym", extra="tasks", purpose=f"task {SOURCE}:NAME"
        ) from error
    return reasoning_gym.factory
