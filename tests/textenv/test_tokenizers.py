"""Tokenizers of several libraries behind one interface."""

import copy
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenv.errors import DataError
from textenv.hub import ASSETS
from textenv.tokenizers import Tokenizer, load_tokenizer

tokenizers = pytest.importorskip("tokenizers")
PRINTABLE = "".join(map(chr, range(32, 127)))
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def folder(tmp_path):
    """A copy of the shipped tokenizer to change, without the model's own config."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((ASSETS / "tiny-lm" / name).read_text())
    return tmp_path


def write_config(folder, name="tokenizer_config.json", **changes):
    path = folder / name
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**config, **changes}))


class Words:
    """A user's tokenizer with one token for each word."""

    vocab_size = 3
    words = ("<eos>", "yes", "no")

    def encode(self, text):
        return [self.words.index(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(self.words[i] for i in ids)


def test_the_one_that_ships():
    tokenizer = load_tokenizer("tiny-lm")
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.encode("12+30=") == [19, 20, 13, 21, 18, 31]  # from its vocabulary
    assert tokenizer.decode([19, 20, 1]) == "12<eos>"
    assert (tokenizer.eos_token_ids, tokenizer.pad_token_id) == ((1,), 0)
    assert tokenizer.vocab_size == 98
    assert not tokenizer.has_chat_template


@given(st.text(PRINTABLE))
def test_printable_text_comes_back(text):
    tokenizer = load_tokenizer("tiny-lm")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(type(i) is int and 0 <= i < tokenizer.vocab_size for i in ids)


def test_it_is_the_tokenizer_that_a_policy_has():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(ASSETS / "tiny-lm"))
    light, adapted = load_tokenizer("tiny-lm"), load_tokenizer(theirs)
    for text in ("", "12+30=", PRINTABLE, "é"):
        assert light.encode(text) == adapted.encode(text) == theirs.encode(text)
    ids = [18, 1, 0, 97, 5]
    assert light.decode(ids) == adapted.decode(ids) == theirs.decode(ids)
    for name in ("eos_token_ids", "pad_token_id", "vocab_size", "has_chat_template"):
        assert getattr(light, name) == getattr(adapted, name), name


def test_it_is_the_one_of_mlx_lm():
    pytest.importorskip("mlx_lm")
    from mlx_lm.utils import load_tokenizer as load_theirs

    light = load_tokenizer("tiny-lm")
    adapted = load_tokenizer(load_theirs(ASSETS / "tiny-lm", eos_token_ids=[1]))
    assert adapted.encode("12+30=") == light.encode("12+30=")
    assert adapted.decode([18, 19]) == light.decode([18, 19])
    assert (adapted.eos_token_ids, adapted.vocab_size) == ((1,), 98)


def test_objects_of_all_kinds():
    own = load_tokenizer(Words())
    assert own.decode(own.encode("yes no")) == "yes no"
    assert (own.eos_token_ids, own.pad_token_id, own.vocab_size) == ((), 0, 3)
    assert load_tokenizer(own) is own
    plain = load_tokenizer(
        tokenizers.Tokenizer.from_file(str(ASSETS / "tiny-lm" / "tokenizer.json"))
    )
    assert plain.encode("1") == [19]
    assert plain.eos_token_ids == ()
    assert copy.deepcopy(plain).encode("1") == [19]


@pytest.mark.parametrize("missing", ["encode", "decode", "vocab_size"])
def test_what_is_no_tokenizer_is_named(missing):
    members = {name: getattr(Words, name) for name in ("encode", "decode", "vocab_size", "words")}
    del members[missing]
    with pytest.raises(TypeError, match=f"Half has no {missing}"):
        load_tokenizer(type("Half", (), members)())


@pytest.mark.parametrize("text", [None, 3, b"1", ["1"]])
def test_only_text_is_encoded(text):
    with pytest.raises(TypeError, match=type(text).__name__):
        load_tokenizer("tiny-lm").encode(text)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({}, None, (1,)),
        ({"eos_token_id": 5}, None, (1, 5)),
        ({"eos_token_id": [5, 7]}, None, (1, 5, 7)),
        ({"eos_token_id": 5}, {"eos_token_id": [9]}, (1, 9)),
        ({"eos_token_id": 5}, {"top_p": 1}, (1, 5)),
    ],
)
def test_eos_ids_are_the_models_and_the_tokenizers(folder, config, generation, expected):
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    assert load_tokenizer(str(folder)).eos_token_ids == expected
    assert load_tokenizer(folder).eos_token_ids == expected


def test_a_tokenizer_without_eos_or_pad(folder):
    write_config(folder, eos_token=None, pad_token=None)
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.eos_token_ids, tokenizer.pad_token_id) == ((), 0)
    write_config(folder, eos_token={"content": "<eos>", "lstrip": False})
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.eos_token_ids, tokenizer.pad_token_id) == ((1,), 1)


def test_truncation_and_padding_in_the_file_are_switched_off(folder):
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(folder / "tokenizer.json"))
    assert load_tokenizer(folder).encode("123") == [19, 20, 21]


@pytest.mark.parametrize("where", ["config", "file"])
def test_a_chat_template_is_rendered(folder, where):
    pytest.importorskip("transformers")
    if where == "config":
        write_config(folder, chat_template=TEMPLATE)
    else:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.has_chat_template
    messages = ({"role": "user", "content": "Hi"},)
    assert tokenizer.render_chat(messages) == "<user>Hi<assistant>"
    assert tokenizer.render_chat(messages, add_generation_prompt=False) == "<user>Hi"
    theirs = load_tokenizer(tokenizer._chat._render._backend)  # transformers' own, of the folder
    assert theirs.render_chat(messages) == "<user>Hi<assistant>"


def test_no_template_is_said():
    with pytest.raises(ValueError, match="no chat template"):
        load_tokenizer("tiny-lm").render_chat([{"role": "user", "content": "Hi"}])


def test_special_tokens_are_added_where_they_are_asked_for(folder):
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", 1)]
    )
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("1") == [1, 19]
    assert tokenizer.encode("1", add_special_tokens=False) == [19]


def test_a_hub_name_downloads_no_weights(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    import fnmatch

    asked = []

    def download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(ASSETS / "tiny-lm")

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert load_tokenizer("owner/model").encode("1") == [19]
    [(name, patterns)] = asked
    assert name == "owner/model"
    weights = ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"]
    assert not [w for w in weights for p in patterns if fnmatch.fnmatch(w, p)]

    def fail(name, allow_patterns):
        raise OSError("no network\nmore")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match=r"owner/model.*no network$"):
        load_tokenizer("owner/model")


def test_broken_folders_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.json is a file"):
        load_tokenizer(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json holds a list"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is not JSON"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json is missing"):
        load_tokenizer(folder)


def test_a_missing_library_names_the_extra():
    code = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "from textenv.tokenizers import load_tokenizer\n"
        "try: load_tokenizer('tiny-lm')\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "needs tokenizers" in done.stdout and "textenv[tokenizers]" in done.stdout, done


def test_loading_brings_no_framework():
    code = (
        "import sys\nfrom textenv.tokenizers import load_tokenizer\n"
        "load_tokenizer('tiny-lm').encode('12')\n"
        "print([m for m in ('torch', 'mlx', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done


def test_what_stands_around_a_text_is_put_before_a_prompt_once_and_never_after_it():
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<s>": 0, "</s>": 1, "a": 2, "b": 3}
    for single, before in (
        ("<s> $A", [0]),
        ("<s> <s> $A </s>", [0, 0]),
        ("$A </s>", []),
        ("$A", []),
    ):
        backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary))
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
        backend.add_special_tokens(["<s>", "</s>"])
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        tokenizer = load_tokenizer(backend)
        assert tokenizer.encode_prompt("ab") == [*before, 2, 3]
        assert tokenizer.encode_prompt("") == before
        if before:
            assert tokenizer.encode_prompt("<s>" * len(before) + "ab") == [*before, 2, 3]
        assert tokenizer.ids == {0, 1, 2, 3}
        assert tokenizer.special_ids == {0, 1}


def test_code_of_a_folder_is_not_run_nor_asked_about(folder, monkeypatch):
    """transformers would ask, and run it on a yes."""
    pytest.importorskip("transformers")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    (folder / "tokenizer.json").unlink()
    write_config(folder, auto_map={"AutoTokenizer": ["evil.Tok", None]}, tokenizer_class="Tok")
    with pytest.raises(DataError, match=f"{folder} does not hold a tokenizer that loads"):
        load_tokenizer(str(folder))


def test_a_config_that_is_too_deep_is_not_json(folder):
    (folder / "tokenizer_config.json").write_text("[" * 5000)
    with pytest.raises(DataError, match=r"tokenizer_config\.json is not JSON"):
        load_tokenizer(str(folder))


def test_a_file_that_is_no_text_is_no_tokenizer(folder):
    (folder / "tokenizer.json").write_bytes(b"\xae")
    with pytest.raises(DataError, match=r"tokenizer\.json is not a tokenizer"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("value", [0.5, "12", [1, "2"], {"id": 1}, True])
def test_ends_that_are_no_ids_are_named(folder, value):
    write_config(folder, "config.json", eos_token_id=value)
    with pytest.raises(DataError, match=r"config\.json: eos_token_id must be token ids, got"):
        load_tokenizer(str(folder))
