"""The prompts are fit to be spoken in every language of XTTS, and a file of them is read or refused in one sentence."""

import re

import pytest

from xtts_gatekeeper.data import LANGUAGES
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.samples.prompts import (
    CHAR_LIMITS,
    Prompt,
    built_in,
    choose_prompts,
    fingerprint,
    languages_of,
    read_prompts,
)

KINDS = ["plain", "question", "digits", "rare", "long", "short", "exclamation", "list"]
QUESTION_MARKS = ("?", "\uff1f", "\u061f")  # those of East Asia and of Arabic


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_its_eight_prompts(language):
    prompts = built_in(language)
    assert [prompt.id for prompt in prompts] == [f"{language}-{kind}" for kind in KINDS]
    assert {prompt.language for prompt in prompts} == {language}
    texts = {prompt.id.removeprefix(f"{language}-"): prompt.text for prompt in prompts}
    assert len(set(texts.values())) == len(KINDS)
    assert texts["question"].endswith(QUESTION_MARKS)
    assert re.search(r"\d", texts["digits"]) or language == "hi"  # of which the stack's tokenizer knows no digits
    assert not any(re.search(r"\d", text) for kind, text in texts.items() if kind != "digits")
    assert len(texts["long"]) == max(map(len, texts.values()))
    assert len(texts["short"]) == min(map(len, texts.values()))
    assert len({prompt.seed for prompt in prompts}) == len(KINDS)


def test_the_limits_are_the_stacks():
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

    assert VoiceBpeTokenizer().char_limits == CHAR_LIMITS


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_stacks_own_cleaners_take_every_prompt(language):
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

    tokenizer = VoiceBpeTokenizer()
    for prompt in built_in(language):
        try:
            said = tokenizer.preprocess_text(prompt.text.lower(), language.split("-")[0])
        except ImportError as error:
            pytest.skip(f"the tokenizer of {language} needs a package that is not here: {error}")
        assert said
        if prompt.id.endswith("digits"):
            assert not re.search(r"\d", said), said


def test_seeds_are_the_same_on_every_machine():
    assert [prompt.seed for prompt in built_in("en")[:2]] == [511422583, 324730794]
    takes = {prompt.seed_of(take) for language in LANGUAGES for prompt in built_in(language) for take in range(10)}
    assert len(takes) == 17 * 8 * 10


def test_eight_prompts_are_dealt_out_among_the_languages_of_the_training():
    one = choose_prompts(["ru"], 0)
    assert one == built_in("ru")
    two = choose_prompts(["ru", "en"], 0)
    kinds = [f"{language}-{kind}" for kind in KINDS[:4] for language in ("ru", "en")]
    assert [prompt.id for prompt in two] == kinds
    assert all(prompt.own for prompt in two)
    many = choose_prompts(list(LANGUAGES), 0)  # every language of a training is heard
    assert {prompt.language for prompt in many} == set(LANGUAGES)


def test_other_languages_have_one_prompt_each_and_are_marked():
    chosen = choose_prompts(["en"], 2)
    assert [(prompt.id, prompt.own) for prompt in chosen[8:]] == [("es-plain", False), ("de-plain", False)]
    assert len(choose_prompts(["en"], 99)) == 8 + 16
    assert len(choose_prompts(list(LANGUAGES), 5)) == 17


def test_languages_are_those_of_the_clips_the_most_frequent_first():
    clips = [{"language": "ru"}, {"language": "en"}, {"language": "ru"}, {"language": "xx"}, {}, "no clip"]
    assert languages_of(clips) == ["ru", "en"]


def test_a_file_of_plain_text_is_one_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffFirst.\r\n\r\n  Second one.  \n".encode())
    found = read_prompts(path, "en")
    assert [(prompt.id, prompt.text) for prompt in found] == [("line-1", "First."), ("line-2", "Second one.")]


def test_a_yaml_file_says_more(tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text("- {id: hello, text: Hello  there., seed: 5}\n- text: ¿Qué tal?\n  language: es\n- Just this.\n")
    found = read_prompts(path, "en")
    assert found[0] == Prompt(id="hello", text="Hello there.", language="en", seed=5)
    assert [(prompt.id, prompt.language) for prompt in found] == [
        ("hello", "en"),
        ("prompt-2", "es"),
        ("prompt-3", "en"),
    ]
    chosen = choose_prompts(["en"], 2, path)
    assert [prompt.own for prompt in chosen] == [True, False, True, False, False]
    assert [prompt.language for prompt in chosen[3:]] == ["de", "fr"]  # Spanish is in the file


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("p.txt", b"", "are empty; write at least one sentence"),
        ("p.txt", b"\n \n", "are empty"),
        ("p.yaml", b"", "are empty"),
        ("p.yaml", b"[]", "are empty"),
        ("p.txt", "schön".encode("latin-1"), "are not UTF-8"),
        ("p.txt", "Привет".encode("utf-16"), "are not UTF-8"),
        ("p.yaml", b"text: Hello", "are no list but dict"),
        ("p.yaml", b"- text: 'Hello\n- x", "are no YAML in line"),
        ("p.yaml", b"- [1]", "prompt 1 of .* is list"),
        ("p.yaml", b"- {txt: Hello}", "unknown key 'txt', did you mean 'text'"),
        ("p.yaml", b"- {id: a}", "nothing to say: its text is None"),
        ("p.txt", b"...", "nothing to say: its text is '...'"),
        ("p.yaml", b"- {text: Hello, language: xx}", "prompt 1 of .*: XTTS has no language 'xx'"),
        ("p.yaml", b"- {text: Hello, language: no}", "names no language, and the run tells none"),  # YAML's False
        ("p.yaml", b"- {id: a, text: Hello}\n- {id: A, text: There}", "the id 'A' twice"),
        ("p.yaml", b"- {id: ../a, text: Hello}", "the id '../a', which names files"),
        ("p.yaml", b"- {id: true, text: Hello}", "the id True"),
        ("p.yaml", b"- {text: Hello, seed: -1}", "the seed -1"),
        ("p.yaml", b"- {text: Hello, seed: 1.5}", "the seed 1.5"),
        ("p.txt", b"word " * 60, "has 299 characters, and XTTS speaks 250 of en; shorten it"),
        (
            "p.yaml",
            ("- {language: ja, text: " + "あ" * 72 + "}").encode(),
            "has 72 characters, and XTTS speaks 71 of ja",
        ),
    ],
)
def test_what_cannot_be_spoken_is_refused_in_one_sentence(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_prompts(path, "en")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        read_prompts(tmp_path / "none.txt", "en")
    with pytest.raises(UserError, match="cannot be read"):
        read_prompts(tmp_path, "en")


def test_without_a_language_it_must_say_one(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("Hello.")
    with pytest.raises(UserError, match="names no language"):
        read_prompts(path)


def test_the_fingerprint_tells_everything_apart_that_is_spoken():
    prompts = built_in("en")[:2]
    settings = {"temperature": 0.75, "top_k": 50}
    first = fingerprint(prompts, 1, ["a", "b"], settings)
    assert re.fullmatch("[0-9a-f]{12}", first)
    assert first == fingerprint(list(prompts), 1, ("a", "b"), dict(reversed(settings.items())))
    others = {
        fingerprint(prompts[:1], 1, ["a", "b"], settings),
        fingerprint(prompts[::-1], 1, ["a", "b"], settings),
        fingerprint(prompts, 2, ["a", "b"], settings),
        fingerprint(prompts, 1, ["b", "a"], settings),
        fingerprint(prompts, 1, ["a", "b"], {**settings, "top_k": 51}),
    }
    assert len(others) == 5 and first not in others
