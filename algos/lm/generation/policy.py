"""A language model as a policy, which answers text with text and records the tokens.

Every policy here is a callable ``policy(observation, deterministic=False) -> (action, extras)``.
For a batch of observations it returns a list of actions, and each entry of ``extras`` has one item
for each.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from textenv.algos.config import check_integer
from textenv.algos.runtime import backend, blas
from textenv.algos.storage.checkpoints.state import State, load_rng, save_rng
from textenv.errors import ConfigError, ConfigTypeError, DataError, unknown
from textenv.tokenizers import load_tokenizer

backend.prepare()

import mlx.nn as nn  # noqa: E402

from textenv.algos.lm.generation.chat import ChatFormat, Messages, Tools  # noqa: E402
from textenv.algos.lm.generation.completions import Completion  # noqa: E402
from textenv.algos.lm.generation.generator import Generator  # noqa: E402
from textenv.algos.lm.generation.sampling import SamplingParams  # noqa: E402
from textenv.algos.lm.generation.stops import StopStrings, check_stops  # noqa: E402
from textenv.algos.lm.generation.tool_calls import CallFormat  # noqa: E402
from textenv.algos.lm.models.properties import context_length, count_parameters  # noqa: E402
from textenv.algos.lm.models.vocabulary import (  # noqa: E402
    check_ids,
    embedding_rows,
    fit_vocabulary,
)
from textenv.algos.lm.models.weights import as_numpy, fingerprint, set_weights  # noqa: E402

PRECISIONS = ("float32", "bfloat16")
HALF_FROM = 100_000_000
"""Weights from which ``"auto"`` is bfloat16: at 135 million it was 1.3 times as fast."""


@dataclass(frozen=True)
class PolicyParams(SamplingParams):
    """Settings of `create_policy`."""

    max_tokens: int = 64
    """The longest completion in tokens, EOS included."""
    seed: int = 0
    """Seed of the sampling noise."""
    chat_template: bool | None = None
    """Whether prompts go through the tokenizer's chat template; None: if it has one."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What the chat template is given beside the messages, such as ``enable_thinking``."""
    stop: Sequence[str] = ()
    """Strings that end a completion; the answer is what comes before them."""
    batch_size: int = 512
    """How many completions are decoded at once; lower it if memory runs out."""
    precision: str = "float32"
    """``"bfloat16"`` multiplies by float32 weights in bfloat16 while answers are sampled, not in
    greedy ones; see `textenv.algos.runtime.blas.half_products`. ``"auto"`` does so where that is
    faster: for a large model, on a CPU that can."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("max_tokens", 1), ("seed", 0), ("batch_size", 1)):
            check_integer(name, getattr(self, name), low)
        if not isinstance(self.chat_template_kwargs, Mapping):
            raise ConfigTypeError(
                f"chat_template_kwargs must be a mapping, got {self.chat_template_kwargs!r}"
            )
        if self.precision not in (*PRECISIONS, "auto"):
            raise ConfigError(unknown("precision", self.precision, (*PRECISIONS, "auto")))
        object.__setattr__(self, "stop", check_stops(self.stop))


class LanguageModelPolicy:
    """Samples completions of prompts from a language model.

    Args:
        model: an mlx-lm model. If it is trained in place, the policy uses the new weights.
        tokenizer: mlx-lm's tokenizer wrapper.
        params: settings.

    Raises:
        ConfigError: for an architecture that rollouts cannot batch, a chat template that the
            tokenizer does not have, or a precision that this machine does not have.
        DataError: for a tokenizer with more ids than the model has rows.
    """

    batched = True
    """A policy that takes a list of observations as well as one."""

    def __init__(self, model: nn.Module, tokenizer: Any, params: PolicyParams):
        self.model = model
        self.tokenizer = tokenizer
        if params.precision == "auto":
            half = blas.has_half() and count_parameters(model) >= HALF_FROM
            params = replace(params, precision="bfloat16" if half else "float32")
        elif params.precision == "bfloat16":
            blas.check_half()
        self.params = params
        tokens = load_tokenizer(tokenizer)
        fit_vocabulary(model, tokens)
        self._rows = embedding_rows(model)
        self._format = ChatFormat(tokens, params.chat_template, params.chat_template_kwargs)
        self._calls = CallFormat(tokenizer)
        self._stops = StopStrings(tokenizer.decode, params.stop)
        self._generator = Generator(model, self._format.ends, params.batch_size)
        self._rng = np.random.default_rng(params.seed)
        self._greedy = replace(params, temperature=0.0, precision="float32")
        self._warned_of_unknown = False
        self._written: dict[str, list[int]] = {}

    def __call__(
        self,
        observation: str | Sequence[str],
        deterministic: bool = False,
        infos: Any = None,
        context: Any = None,
        seeds: Any = None,
        continues: bool | None = None,
        branches: bool = False,
        begun: Any = None,
        limits: Any = None,
        ended: Callable[[int, str, dict[str, Any]], None] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Complete a prompt, or each of a batch.

        Args:
            observation: a prompt, or a list of prompts; equal ones are prefilled once.
            deterministic: take the most probable token each time.
            infos: the info of each observation. In an episode's later turns, ``info["turn"]`` is
                what the environment said. If there is a chat template, ``info["messages"]`` is
                the conversation so far, and is read in place of the observation. The template
                shows the tools in ``info["tools"]``, and calls of them are written in the answer
                as `textenv.tools.calls` reads them, whatever the model's own format.
            context: the token ids of each episode so far, or None at its start. An episode goes
                on from these, so that what the policy wrote is never encoded again. If no context
                is given, the policy looks for the transcript among those of its last call.
            seeds: a seed for each observation. Its noise then follows from this and the policy's
                own seed, whatever it is batched with and whatever was drawn before. If no seeds
                are given, one stream of noise runs on from call to call.
            continues: whether the next call may go on from these episodes. What was computed for
                them then stays in memory, so that the next call computes only what is new, until
                that call or `forget`. None: only if this is a later turn already.
            branches: whether this call may go on from any beginning of earlier episodes, and later
                calls from any of these. What was computed for all of them stays in memory until
                `forget`.
            begun: a `Completion` that each answer begins with, or None. Its tokens count towards
                ``max_tokens``, and each token has the noise of its position.
            limits: the most tokens that each answer may have, the begun ones included, if that is
                less than ``max_tokens``.
            ended: called with the index, the action and the extras of each answer once it has
                ended, while others go on.

        Returns:
            The completion without its EOS or stop string, and extras: ``token_ids`` and
            ``token_logprobs`` (with what ended it and what was begun), ``token_entropies``,
            ``support``, ``temperature``, ``prompt_ids`` (all tokens before the completion),
            ``truncated``, ``logprob`` (the sum over the tokens). For a batch, lists of these.

        Raises:
            ConfigTypeError: for an observation that is not text.
            DataError: if a prompt and ``max_tokens`` do not fit the model's context.
        """
        single = isinstance(observation, str)
        prompts: list[str] = [observation] if isinstance(observation, str) else list(observation)
        infos, contexts, begun, limits = (
            [value] if single else (value or [None] * len(prompts))
            for value in (infos, context, begun, limits)
        )
        # A loop that passes contexts knows which episodes begin: an equal prompt may come again.
        prompt_ids, later = self._encode_all(prompts, infos, contexts, recall=context is None)
        told = [info or {} for info in infos]
        params = self._greedy if deterministic else self.params
        heads = [Completion() if head is None else head for head in begun]
        left = self._tokens_left(heads, limits)
        seeds = [seeds] if single and seeds is not None else seeds
        answers: dict[int, tuple[str, dict[str, Any]]] = {}

        def on_completion(row: int, rest: Completion) -> None:
            completion = heads[row].followed_by(rest) if heads[row].token_ids else rest
            text, extras = self._answer(prompt_ids[row], completion, params)
            text = self._format.opened(prompts[row], told[row].get("messages")) + text
            if tools := told[row].get("tools"):
                text = self._calls.plain(text, tools)
            answers[row] = text, extras
            if ended is not None:
                ended(row, *answers[row])

        def stops(row: int, token_ids: list[int]) -> bool:
            return self._stops.end([*heads[row].token_ids, *token_ids])

        with self._rounding(params):
            self._generator.generate(
                [[*ids, *head.token_ids] for ids, head in zip(prompt_ids, heads)],
                max(left),
                params,
                self._noise(heads, params, seeds)[:, : max(left)],
                later if continues is None else continues,
                left,
                branches,
                on_completion,
                stops if self._stops else None,
            )
        texts = [answers[row][0] for row in range(len(prompts))]
        rows = [answers[row][1] for row in range(len(prompts))]
        self._remember(prompts, texts, prompt_ids, [row["token_ids"] for row in rows])
        if single:
            return texts[0], rows[0]
        return texts, {key: [row[key] for row in rows] for key in rows[0]}

    def _rounding(self, params: PolicyParams) -> AbstractContextManager[None]:
        """The block to sample in."""
        if params.precision == "float32":
            return nullcontext()
        return blas.half_products(as_numpy(self.model.parameters()).values())

    def _tokens_left(self, heads: list[Completion], limits: Sequence[int | None]) -> list[int]:
        """How many tokens each answer may still have after those that it begins with."""
        most = [self.params.max_tokens if limit is None else limit for limit in limits]
        begun = [len(head.token_ids) for head in heads]
        left = [limit - count for limit, count in zip(most, begun)]
        if min(left) < 1:
            raise ConfigError(f"an answer of at most {most} tokens has begun with {begun}")
        return left

    def _noise(
        self, heads: list[Completion], params: PolicyParams, seeds: Sequence[int] | None
    ) -> np.ndarray:
        """The noise (N, max_tokens) of each answer's tokens, from the first new one on."""
        shape = (len(heads), self.params.max_tokens)
        if params.greedy:
            return np.zeros(shape, np.float32)
        if seeds is None:
            noise = self._rng.random(shape, dtype=np.float32)
        else:
            rngs = [np.random.default_rng((self.params.seed, seed)) for seed in seeds]
            noise = np.stack([rng.random(shape[1], dtype=np.float32) for rng in rngs])
        begun = [len(head.token_ids) for head in heads]
        if any(begun):
            noise = np.stack([np.roll(row, -count) for row, count in zip(noise, begun)])
        return noise

    def _answer(
        self, prompt_ids: list[int], completion: Completion, params: PolicyParams
    ) -> tuple[str, dict[str, Any]]:
        """A completion as text, and its extras."""
        return self.decode(completion), {
            "prompt_ids": prompt_ids,
            "token_ids": completion.token_ids,
            "token_logprobs": completion.token_logprobs,
            "token_entropies": completion.token_entropies,
            "support": completion.support,
            "temperature": params.scale,
            "truncated": completion.truncated,
            "logprob": float(sum(completion.token_logprobs)),
        }

    def forget(self) -> None:
        """Free the memory that was kept for episodes to go on from."""
        self._generator.forget()

    def encode(
        self, prompt: str, messages: Messages | None = None, tools: Tools = None
    ) -> list[int]:
        """Token ids of a prompt, or of a conversation's messages, as the model reads them."""
        ids = self._format.begin(prompt, messages, tools)
        if not ids:
            raise DataError("the prompt is empty, and this model has no token to begin with")
        self._check(prompt, ids)
        self._warn_of_unknown(prompt, ids)
        return ids

    def _encode_all(
        self, prompts: list[str], infos: list[Any], contexts: list[Any], recall: bool
    ) -> tuple[list[list[int]], bool]:
        """Token ids of each prompt, and whether any of them is an episode's later turn."""
        encoded: dict[tuple[str, str], list[int]] = {}
        out, later = [], False
        for prompt, info, context in zip(prompts, infos, contexts):
            if not isinstance(prompt, str):
                raise ConfigTypeError(
                    f"a language model's observation is text, got {type(prompt).__name__}; "
                    "see textenv.wrappers for other observations"
                )
            turn, messages, tools = ((info or {}).get(k) for k in ("turn", "messages", "tools"))
            if context is None and recall:
                context, turn = self._recall(prompt)
            if context is not None and (turn is not None or messages is not None):
                rendered = messages is None and self._format.is_rendered(prompt)
                ids = self._format.go_on(context, turn or "", messages, rendered, tools)
                later = True
                self._check(prompt, ids)
            else:
                key = prompt, repr((messages, tools))
                if key not in encoded:
                    encoded[key] = self.encode(prompt, messages, tools)
                ids = encoded[key]
            out.append(ids)
        return out, later

    def _remember(
        self,
        prompts: list[str],
        texts: list[str],
        prompt_ids: list[list[int]],
        token_ids: list[list[int]],
    ) -> None:
        """Keep the last call's transcripts, for a loop that passes only observations."""
        self._written = {
            prompt + text: [*before, *after]
            for prompt, text, before, after in zip(prompts, texts, prompt_ids, token_ids)
        }

    def _recall(self, transcript: str) -> tuple[list[int] | None, str | None]:
        """The tokens of the last call's transcript that this one begins with, and its new text."""
        for written, ids in self._written.items():
            if transcript.startswith(written) and transcript != written:
                return ids, transcript[len(written) :]
        return None, None

    def decode(self, completion: Completion) -> str:
        """Text of a completion, without its EOS or stop string."""
        ids = completion.token_ids
        by_token = ids and ids[-1] in self._format.ends
        return self._stops.cut(self.tokenizer.decode(ids[:-1] if by_token else ids))

    @property
    def end_ids(self) -> list[int]:
        """Ids of the tokens that end a completion: EOS, and the end in the chat template."""
        return self._format.ends

    def ends(self, token_ids: Sequence[int]) -> bool:
        """Whether a completion of these tokens has ended by itself."""
        return token_ids[-1] in self._format.ends or self._stops.end(token_ids)

    def fingerprint(self) -> str:
        """SHA-256 of the weights: names, types, shapes and bytes, in the order of the names."""
        return fingerprint(self.model)

    def tensors(self) -> dict[str, np.ndarray]:
        """The weights by name, for `set_tensors` of a policy of the same model elsewhere."""
        return as_numpy(self.model.parameters())

    def set_tensors(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Replace the weights by others of the same names and shapes.

        Raises:
            ConfigError: if they are those of another model.
        """
        set_weights(self.model, tensors)

    def state(self) -> State:
        """The generator of the noise of calls without seeds."""
        return State(values={"rng": save_rng(self._rng)})

    def load_state(self, state: State) -> None:
        """Go on from what `state` gave."""
        load_rng(self._rng, state.value("rng"))

    def with_params(self, **changes: Any) -> LanguageModelPolicy:
        """A policy of the same model with other settings."""
        return LanguageModelPolicy(self.model, self.tokenizer, replace(self.params, **changes))

    def _check(self, prompt: str, ids: list[int]) -> None:
        context, tokens = context_length(self.model), len(ids)
        try:
            check_ids(self._rows, ids)
        except DataError as error:
            raise DataError(f"prompt {prompt[:40]!r}: {error}") from error
        if context is not None and tokens + self.params.max_tokens > context:
            raise DataError(
                f"a prompt of {tokens} tokens and max_tokens={self.params.max_tokens} exceed the "
                f"model's context of {context} tokens (prompt {prompt[:40]!r}...)"
            )

    def _warn_of_unknown(self, prompt: str, ids: list[int]) -> None:
        unk = getattr(self.tokenizer, "unk_token_id", None)
        if unk is not None and unk in ids and not self._warned_of_unknown:
            self._warned_of_unknown = True
            warnings.warn(
                f"the model's tokenizer does not know some of prompt {prompt[:60]!r}; "
                "the model reads an unknown token there",
                stacklevel=4,
            )


def create_policy(
    model: nn.Module, tokenizer: Any, params: Mapping[str, Any] | None = None
) -> LanguageModelPolicy:
    """A policy that samples from a language model.

    Args:
        model: from `load_model`.
        tokenizer: from `load_model`.
        params: any of the fields of `PolicyParams`: ``max_tokens``, ``temperature``, ``top_p``,
            ``top_k``, ``min_p``, ``seed``, ``chat_template``, ``chat_template_kwargs``, ``stop``,
            ``batch_size``, ``precision``.

    Raises:
        ConfigError: for an unknown setting, or a value out of range.
    """
    params = dict(params or {})
    known = [field.name for field in fields(PolicyParams)]
    for name in params:
        if name not in known:
            raise ConfigError(unknown("policy setting", name, known))
    return LanguageModelPolicy(model, tokenizer, PolicyParams(**params))
