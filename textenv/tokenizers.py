"""Loads tokenizers of several libraries behind one interface, without loading a model.

A ``tokenizer.json`` is read by the small `tokenizers` library. `transformers` is imported only
for a folder without that file, and to render a chat template.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from textenv.chat_templates import ChatTemplate
from textenv.errors import (
    ConfigError,
    ConfigTypeError,
    DataError,
    MissingDependencyError,
    MissingFileError,
)
from textenv.hub import find_folder

EXTRA = "tokenizers"
_FILES = [  # what is downloaded of a model on the hub: everything but the weights
    "config.json",
    "generation_config.json",
    "token*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.jinja",
]


class Tokenizer:
    """The interface to a tokenizer that this package uses, whatever library implements it.

    Attributes:
        ids: all token ids.
        eos_token_ids: ids that end a text, in ascending order; empty if none is known.
        pad_token_id: the id to pad with. If the tokenizer names none, it is an EOS, or else 0.
        vocab_size: one more than the largest id.
        backend: the library's own tokenizer.

    Args:
        backend: the library's own tokenizer.
        encode: ``encode(text, add_special_tokens) -> ids`` of the backend.
        decode: ``decode(ids) -> text`` of the backend.
        ids: all token ids.
        eos_token_ids: ids that end a text.
        pad_token_id: the id to pad with.
        chat: renders messages, ``chat(messages, add_generation_prompt, **settings) -> text``; None
            if the tokenizer has no chat template.
    """

    def __init__(
        self,
        backend: Any,
        encode: Callable[[str, bool], Iterable[int]],
        decode: Callable[[list[int]], str],
        ids: Iterable[int],
        eos_token_ids: Iterable[int] = (),
        pad_token_id: int | None = None,
        chat: Callable[..., str] | None = None,
    ):
        self.backend = backend
        self.ids = frozenset(ids)
        self.vocab_size = max(self.ids) + 1
        self.eos_token_ids = tuple(sorted(set(eos_token_ids)))
        self.pad_token_id = (
            next(iter(self.eos_token_ids), 0) if pad_token_id is None else pad_token_id
        )
        self._encode = encode
        self._decode = decode
        self._chat = None if chat is None else ChatTemplate(chat)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text.

        Args:
            text: any text.
            add_special_tokens: whether to add the tokens that the tokenizer puts around a text,
                such as a BOS. The prompt of a language model needs them; a text that continues
                another one must not have them.

        Raises:
            ConfigTypeError: for anything but a string.
        """
        if not isinstance(text, str):
            raise ConfigTypeError(f"a tokenizer encodes text, got {type(text).__name__}")
        return [int(i) for i in self._encode(text, add_special_tokens)]

    def encode_prompt(self, text: str) -> list[int]:
        """The token ids of a text that a model is to continue.

        They begin with what the tokenizer puts before a text, such as a BOS, but not twice if the
        text is written with it already. What the tokenizer puts after a text, such as an EOS, is
        left out: a model that reads it has nothing to continue.
        """
        ids = self.encode(text, add_special_tokens=False)
        before = self._put_before
        return ids if ids[: len(before)] == before else [*before, *ids]

    @cached_property
    def _put_before(self) -> list[int]:
        """The ids that the tokenizer puts before a text."""
        if not hasattr(self.backend, "all_special_ids") and not hasattr(
            self.backend, "token_to_id"
        ):
            return []  # a tokenizer that the user wrote
        for known in "a0 ":
            text = self.encode(known, add_special_tokens=False)
            whole = self.encode(known)
            for at in range(len(whole) - len(text) + 1 if text else 0):
                if whole[at : at + len(text)] == text:
                    return whole[:at]
        return []

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of the tokens that stand for no text, such as an EOS or a chat template's markers."""
        added = getattr(self.backend, "added_tokens_decoder", None)
        if added is None and hasattr(self.backend, "get_added_tokens_decoder"):
            added = self.backend.get_added_tokens_decoder()
        marked = {i for i, token in (added or {}).items() if getattr(token, "special", False)}
        known = getattr(self.backend, "all_special_ids", ())
        return frozenset({*marked, *known, *self.eos_token_ids})

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, with special tokens written out."""
        return self._decode([int(i) for i in ids])

    @property
    def has_chat_template(self) -> bool:
        """Whether there is a chat template, so that `render_chat` works."""
        return self._chat is not None

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **settings: Any,
    ) -> str:
        """The text that the model's chat template makes of messages.

        What the template does not take is put in other words (see `ChatTemplate`). The text
        contains its special tokens already: encode it with ``add_special_tokens=False``.

        Args:
            messages: ``{"role", "content"}`` in order.
            add_generation_prompt: whether to append the tokens that begin the model's answer.
            settings: what the template is given beside these, such as ``enable_thinking``, and
                ``tools``, their JSON schemas.

        Raises:
            ConfigError: if the tokenizer has no chat template.
            DataError: if the template does not take the messages; says why.
        """
        if self._chat is None:
            raise ConfigError(
                "the tokenizer has no chat template; use one of a chat model, or plain text"
            )
        return self._chat(
            [dict(message) for message in messages], add_generation_prompt, **settings
        )

    def render_after_answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **settings: Any,
    ) -> str:
        """The text that the chat template puts after the content of the last assistant message.

        That is the end of this message, then the later messages and the beginning of the next
        answer. It is found with another text in place of the content, so that it is right for an
        answer of any text, and for templates that treat the last message in their own way.

        Args:
            messages: ``{"role", "content"}`` in order, one of them the assistant's.
            add_generation_prompt: as in `render_chat`.
            settings: as in `render_chat`.

        Raises:
            ConfigError: if the tokenizer has no chat template.
            DataError: if the template does not take the messages, or does not show the content
                of the assistant's message exactly once.
        """
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        mark = "answer0"
        while any(mark in str(message["content"]) for message in messages):
            mark += "0"
        marked = [dict(message) for message in messages]
        marked[answers[-1]]["content"] = mark  # the answer as it was written, calls included
        marked[answers[-1]].pop("tool_calls", None)
        text = self.render_chat(marked, add_generation_prompt, **settings)
        if text.count(mark) != 1:
            raise DataError(
                f"the model's chat template shows the answer {text.count(mark)} times where it "
                "should show it once, so what it puts after an answer is not known; turn the "
                "template off (chat_template=False), or use a tokenizer with another one"
            )
        return text.partition(mark)[2]


def load_tokenizer(tokenizer: Any, what: str = "tokenizer") -> Tokenizer:
    """Load a tokenizer by name, or adapt a tokenizer object of another library.

    Args:
        tokenizer: ``"tiny-lm"`` (ships with this package), the folder of a model, the name of a
            model on the Hugging Face hub (``owner/model``; only its tokenizer is downloaded,
            unless it is cached), or an object: a `Tokenizer`, a tokenizer of `tokenizers`,
            `transformers` or mlx-lm, or any object with ``encode``, ``decode`` and
            ``vocab_size``.
        what: what messages call the name: that of a tokenizer, or of a model.

    Raises:
        MissingFileError: if the name is not a folder, or the folder has no tokenizer; names it.
        DataError: if a file of the tokenizer cannot be read; names it.
        ConfigTypeError: for an object that is not a tokenizer.
        MissingDependencyError: if the library that reads the tokenizer is not installed.
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if isinstance(tokenizer, (str, Path)):
        return _from_folder(find_folder(str(tokenizer), what, _FILES))
    if hasattr(tokenizer, "token_to_id"):  # no isinstance: `tokenizers` may not be installed
        return _of_tokenizers(tokenizer)
    return _of_object(tokenizer)


def _of_tokenizers(
    backend: Any,
    eos_token_ids: Iterable[int] = (),
    pad_token_id: int | None = None,
    chat: Callable[..., str] | None = None,
) -> Tokenizer:
    return Tokenizer(
        backend,
        partial(_encode_by_tokenizers, backend),
        partial(backend.decode, skip_special_tokens=False),
        backend.get_vocab(with_added_tokens=True).values(),
        eos_token_ids,
        pad_token_id,
        chat,
    )


def _encode_by_tokenizers(backend: Any, text: str, special: bool) -> Iterable[int]:
    return backend.encode(text, add_special_tokens=special).ids


def _of_object(backend: Any, eos_token_ids: Iterable[int] = (), chat: Any = None) -> Tokenizer:
    """Adapt a tokenizer of `transformers` or mlx-lm, or one that the user wrote."""
    missing = [name for name in ("encode", "decode") if not hasattr(backend, name)]
    vocabulary = backend.get_vocab() if hasattr(backend, "get_vocab") else None
    vocab_size: Any = getattr(backend, "vocab_size", None)
    if missing or (vocabulary is None and not isinstance(vocab_size, int)):
        raise ConfigTypeError(
            "a tokenizer is a name, or an object with encode(text), decode(ids) and vocab_size; "
            f"{type(backend).__name__} has no {(missing or ['vocab_size'])[0]}"
        )
    eos = {
        *eos_token_ids,
        *_ids(getattr(backend, "eos_token_id", None)),
        *_ids(getattr(backend, "eos_token_ids", None)),
    }
    # Only transformers and mlx-lm have this keyword; a user's own tokenizer adds no tokens.
    knows_special = hasattr(backend, "all_special_ids")

    encode = partial(_encode_by_object, backend, knows_special)
    render = partial(_render_by_object, backend)
    # mlx-lm has templates that are functions, and says so by this.
    if chat is None and getattr(
        backend, "has_chat_template", getattr(backend, "chat_template", None) is not None
    ):
        chat = render
    pad = getattr(backend, "pad_token_id", None)
    ids = range(vocab_size) if vocabulary is None else vocabulary.values()
    return Tokenizer(backend, encode, backend.decode, ids, eos, pad, chat)


def _render_by_object(
    backend: Any, messages: list[dict[str, Any]], add_generation_prompt: bool, **settings: Any
) -> str:
    return backend.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt, **settings
    )


def _encode_by_object(backend: Any, knows_special: bool, text: str, special: bool) -> Iterable[int]:
    if knows_special:
        return backend.encode(text, add_special_tokens=special)
    return backend.encode(text)


def _from_folder(folder: Path) -> Tokenizer:
    config = _read_json(folder / "tokenizer_config.json")
    eos = _eos_of_model(folder)
    chat = _Template(folder) if _has_template(folder, config) else None
    if not (folder / "tokenizer.json").is_file():
        if not any(folder.glob("*token*")) and not any(folder.glob("vocab*")):
            raise MissingFileError(f"{folder} holds no tokenizer: tokenizer.json is missing")
        return _of_object(_of_transformers(folder), eos)
    try:
        import tokenizers
    except ImportError as error:
        raise MissingDependencyError("tokenizers", EXTRA, "reading a tokenizer") from error
    try:
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{folder / 'tokenizer.json'} is not a tokenizer: {error}") from error
    backend.no_truncation()  # some files set the length limit of the model they were made for
    backend.no_padding()
    ids = {name: _special_id(backend, config.get(name)) for name in ("eos_token", "pad_token")}
    eos = {*eos, *(() if ids["eos_token"] is None else (ids["eos_token"],))}
    return _of_tokenizers(backend, eos, ids["pad_token"], chat)


class _Template:
    """Renders the chat template of a folder with transformers, imported at the first use."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._backend: Any = None

    def __call__(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool, **settings: Any
    ) -> str:
        if self._backend is None:
            self._backend = _of_transformers(self._folder)
        return self._backend.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, **settings
        )


def _of_transformers(folder: Path) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError(
            "transformers", EXTRA, "a chat template, or a tokenizer without a tokenizer.json,"
        ) from error
    try:
        return transformers.AutoTokenizer.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,  # else it asks whether to run code of the folder
        )
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise DataError(f"{folder} does not hold a tokenizer that loads: {error}") from error


def _eos_of_model(folder: Path) -> set[int]:
    """The EOS ids in the model's own config files."""
    for name in ("generation_config.json", "config.json"):
        value = _read_json(folder / name).get("eos_token_id")
        listed = value if isinstance(value, list) else [value]
        if any(item is not None and type(item) is not int for item in listed):
            raise DataError(f"{folder / name}: eos_token_id must be token ids, got {value!r:.40}")
        if ids := {item for item in listed if item is not None}:
            return ids
    return set()


def _ids(value: Any) -> set[int]:
    """A set of ids from what a library gives: one id, several or None."""
    if value is None:
        return set()
    return {value} if isinstance(value, int) else set(value)


def _special_id(backend: Any, token: Any) -> int | None:
    content = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(content) if isinstance(content, str) else None


def _has_template(folder: Path, config: dict[str, Any]) -> bool:
    return bool(config.get("chat_template")) or (folder / "chat_template.jinja").is_file()


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}; expected an object")
    return value
