"""Tokenizers by name: text to token ids and back, without a model behind them.

A ``tokenizer.json`` is read by the small `tokenizers` library. `transformers` is imported only
for a folder that has none, and where a chat template is rendered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textenv.errors import (
    ConfigError,
    ConfigTypeError,
    DataError,
    MissingDependencyError,
    MissingFileError,
)
from textenv.hub import find_folder

EXTRA = "tokenizers"
_FILES = [  # of a model on the hub: all that is not weights
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
    """What every tokenizer is here, whichever library is behind it.

    Attributes:
        eos_token_ids: ids that end a text, in ascending order; empty where none is known.
        pad_token_id: the id to pad with; where the tokenizer names none an EOS, or else 0.
        vocab_size: one more than the largest id.
        backend: the library's own tokenizer.

    Args:
        backend: the library's own tokenizer.
        encode: ``encode(text, add_special_tokens) -> ids`` of it.
        decode: ``decode(ids) -> text`` of it.
        vocab_size: one more than the largest id.
        eos_token_ids: ids that end a text.
        pad_token_id: the id to pad with.
        chat: renders messages, ``chat(messages, add_generation_prompt) -> text``; None where the
            tokenizer has no chat template.
    """

    def __init__(
        self,
        backend: Any,
        encode: Callable[[str, bool], Iterable[int]],
        decode: Callable[[list[int]], str],
        vocab_size: int,
        eos_token_ids: Iterable[int] = (),
        pad_token_id: int | None = None,
        chat: Callable[[list[dict[str, str]], bool], str] | None = None,
    ):
        self.backend = backend
        self.vocab_size = vocab_size
        self.eos_token_ids = tuple(sorted(set(eos_token_ids)))
        self.pad_token_id = (
            next(iter(self.eos_token_ids), 0) if pad_token_id is None else pad_token_id
        )
        self._encode = encode
        self._decode = decode
        self._chat = chat

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text.
            add_special_tokens: whether to add what the tokenizer puts around a text (a BOS, say);
                a language model's prompt has it, a text that goes on from another has not.

        Raises:
            ConfigTypeError: for anything but a string.
        """
        if not isinstance(text, str):
            raise ConfigTypeError(f"a tokenizer encodes text, got {type(text).__name__}")
        return [int(i) for i in self._encode(text, add_special_tokens)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; special tokens are written out."""
        return self._decode([int(i) for i in ids])

    @property
    def has_chat_template(self) -> bool:
        """Whether `render_chat` works."""
        return self._chat is not None

    def render_chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages as the text that the model was trained on.

        The text holds its special tokens: encode it with ``add_special_tokens=False``.

        Args:
            messages: ``{"role", "content"}`` in order.
            add_generation_prompt: whether to end with what opens the model's answer.

        Raises:
            ConfigError: where the tokenizer has no chat template.
        """
        if self._chat is None:
            raise ConfigError(
                "the tokenizer has no chat template; use one of a chat model, or plain text"
            )
        return self._chat([dict(message) for message in messages], add_generation_prompt)


def load_tokenizer(tokenizer: Any) -> Tokenizer:
    """A tokenizer by name, or another library's tokenizer as one of here.

    Args:
        tokenizer: ``"tiny-lm"`` (ships with the package), a model's folder, the name of a model
            on the Hugging Face hub (``owner/model``; its tokenizer alone is downloaded where it
            is not cached), or an object: a `Tokenizer`, one of `tokenizers`, `transformers` or
            mlx-lm, or any with ``encode``, ``decode`` and ``vocab_size``.

    Raises:
        MissingFileError: where the name is no folder, or the folder holds no tokenizer; names it.
        DataError: where a file of the tokenizer cannot be read; names it.
        ConfigTypeError: for an object that is no tokenizer.
        MissingDependencyError: where the library that reads it is not installed.
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if isinstance(tokenizer, (str, Path)):
        return _from_folder(find_folder(str(tokenizer), "tokenizer", _FILES))
    if hasattr(tokenizer, "token_to_id"):  # the class is not named here: it may not be installed
        return _of_tokenizers(tokenizer)
    return _of_object(tokenizer)


def _of_tokenizers(
    backend: Any,
    eos_token_ids: Iterable[int] = (),
    pad_token_id: int | None = None,
    chat: Callable[[list[dict[str, str]], bool], str] | None = None,
) -> Tokenizer:
    return Tokenizer(
        backend,
        lambda text, special: backend.encode(text, add_special_tokens=special).ids,
        lambda ids: backend.decode(ids, skip_special_tokens=False),
        max(backend.get_vocab(with_added_tokens=True).values()) + 1,
        eos_token_ids,
        pad_token_id,
        chat,
    )


def _of_object(backend: Any, eos_token_ids: Iterable[int] = (), chat: Any = None) -> Tokenizer:
    """A tokenizer of `transformers` or mlx-lm, or one of the user's own."""
    vocab_size = (
        max(backend.get_vocab().values()) + 1
        if hasattr(backend, "get_vocab")
        else getattr(backend, "vocab_size", None)
    )
    missing = [name for name in ("encode", "decode") if not hasattr(backend, name)]
    if missing or not isinstance(vocab_size, int):
        raise ConfigTypeError(
            "a tokenizer is a name, or an object with encode(text), decode(ids) and vocab_size; "
            f"{type(backend).__name__} has no {(missing or ['vocab_size'])[0]}"
        )
    eos = {
        *eos_token_ids,
        *_ids(getattr(backend, "eos_token_id", None)),
        *_ids(getattr(backend, "eos_token_ids", None)),
    }
    # The keyword is that of transformers and mlx-lm; an own tokenizer adds nothing.
    knows_special = hasattr(backend, "all_special_ids")

    def encode(text: str, special: bool) -> Iterable[int]:
        if knows_special:
            return backend.encode(text, add_special_tokens=special)
        return backend.encode(text)

    def render(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return backend.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )

    if chat is None and getattr(backend, "chat_template", None) is not None:
        chat = render
    pad = getattr(backend, "pad_token_id", None)
    return Tokenizer(backend, encode, backend.decode, vocab_size, eos, pad, chat)


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
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{folder / 'tokenizer.json'} is not a tokenizer: {error}") from error
    backend.no_truncation()  # some files hold a limit of the model they were made for
    backend.no_padding()
    ids = {name: _special_id(backend, config.get(name)) for name in ("eos_token", "pad_token")}
    eos = {*eos, *(() if ids["eos_token"] is None else (ids["eos_token"],))}
    return _of_tokenizers(backend, eos, ids["pad_token"], chat)


class _Template:
    """A folder's chat template, rendered by transformers, which is imported at the first use."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._backend: Any = None

    def __call__(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        if self._backend is None:
            self._backend = _of_transformers(self._folder)
        return self._backend.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )


def _of_transformers(folder: Path) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError(
            "transformers", EXTRA, "a chat template, or a tokenizer without a tokenizer.json,"
        ) from error
    try:
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise DataError(f"{folder} does not hold a tokenizer that loads: {error}") from error


def _eos_of_model(folder: Path) -> set[int]:
    """The ids that the model itself ends a text with, by its configs."""
    for name in ("generation_config.json", "config.json"):
        if ids := _ids(_read_json(folder / name).get("eos_token_id")):
            return ids
    return set()


def _ids(value: Any) -> set[int]:
    """One id, several or none, as different libraries write them."""
    if value is None:
        return set()
    return {value} if isinstance(value, int) else set(value)


def _special_id(backend: Any, token: Any) -> int | None:
    content = token.get("content") if isinstance(token, dict) else token
    return backend.token_to_id(content) if isinstance(content, str) else None


def _has_template(folder: Path, config: dict[str, Any]) -> bool:
    return bool(config.get("chat_template")) or (folder / "chat_template.jinja").is_file()


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}; expected an object")
    return value
