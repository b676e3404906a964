"""What became of each word of a text: table-tested on what a recogniser could have heard."""

import pytest

pytest.importorskip("jiwer", reason="jiwer comes with the measures extra")

from hypothesis import given
from hypothesis import strategies as st

from xtts_gatekeeper.samples.measures.hearing import Heard, Word
from xtts_gatekeeper.samples.measures.reading import read
from xtts_gatekeeper.samples.measures.spelling import plain_words
from xtts_gatekeeper.samples.measures.words import states

TEXT = "the quick brown fox jumps over the lazy dog"


def heard(said, text=TEXT, unlikely=()):
    """Each word of the text takes half a second; those at `unlikely` are not where they should be."""
    words = tuple(
        Word(word, number / 2, number / 2 + 0.5, 0.05 if number in unlikely else 0.9)
        for number, word in enumerate(text.split())
    )
    return Heard(said, -0.2, words)


def found(said, unlikely=(), text=TEXT, language="en"):
    return states(read(text, heard(said, text, unlikely), language), speech_end=len(text.split()) / 2)


def test_a_text_read_out_has_no_errors():
    reading = read(TEXT, heard(TEXT), "en")
    assert (reading.wer, reading.cer, reading.extras) == (0, 0, ())
    assert {word.state for word in reading.words} == {"spoken"}


def test_a_word_left_out_is_lost_without_anything_in_its_place():
    values = found("the quick brown jumps over the lazy dog", unlikely=[3])
    assert values["lost_characters"] == 3
    assert values["replaced_characters"] == 0
    assert values["lost_end_characters"] == 0


def test_a_word_said_as_another_is_lost_with_something_in_its_place():
    values = found("the quick brown elephant jumps over the lazy dog", unlikely=[3])
    assert values["lost_characters"] == 3
    assert values["replaced_characters"] == len("elephant")


def test_an_end_that_is_missing_is_told_from_a_word_inside():
    values = found("the quick brown fox jumps over", unlikely=[6, 7, 8])
    assert values["lost_end_characters"] == len("thelazydog")
    assert values["lost_characters"] == 0
    assert values["speech_behind_seconds"] == 0


def test_what_goes_on_behind_the_text_is_extra():
    values = found(f"{TEXT} and then some more")
    assert values["extra_end_characters"] == len("andthensomemore")
    assert values["repeated_characters"] == 0


@pytest.mark.parametrize(
    "said",
    [
        "the quick brown fox quick brown fox jumps over the lazy dog",
        "the quick brown fox jumps over over the lazy dog",
        f"{TEXT} the lazy dog",
    ],
)
def test_what_is_said_twice_is_a_repetition(said):
    values = found(said)
    assert values["repeated_characters"] >= 4
    assert values["extra_characters"] == 0


def test_a_misspelling_of_the_recogniser_is_no_error_of_the_voice():
    """Both must say so: what was heard, and how unlikely the text is in the audio."""
    assert found("the quik browne focks jumps over the lasy dog")["lost_characters"] == 0
    assert found("the quick brown xyzzy jumps over the lazy dog")["lost_characters"] == 0
    assert found("the quick brown xyzzy jumps over the lazy dog", unlikely=[3])["lost_characters"] == 3


@pytest.mark.parametrize(
    ("text", "said", "language"),
    [
        ("Press 4 to go on", "press four to go on", "en"),
        ("Нажмите 21", "нажмите двадцать один", "ru"),
        ("Número 7, por favor", "numero siete por favor", "es"),
        ("Решётка", "решетка", "ru"),
        ("It's a dog's life", "its a dogs life", "en"),
        ("天气很好。", "天气很好", "zh-cn"),
        ("PIN 007", "pin zero zero seven", "en"),
    ],
)
def test_two_spellings_of_one_sound_are_the_same(text, said, language):
    assert "".join(plain_words(text, language)) == "".join(plain_words(said, language))


def test_chinese_counts_characters_as_words():
    assert plain_words("天气 很好。", "zh-cn") == ["天", "气", "很", "好"]


def test_hindi_keeps_its_vowels():
    assert plain_words("नमस्ते", "hi") != plain_words("नमसत", "hi")


@given(st.text(min_size=1, max_size=40), st.text(max_size=60))
def test_whatever_is_heard_the_counts_are_sane(text, said):
    if not plain_words(text, "en"):
        return
    values = states(read(text, Heard(said, -1.0, ()), "en"), speech_end=1.0)
    assert all(value >= 0 for value in values.values())
    assert values["lost_characters"] + values["lost_end_characters"] <= values["text_characters"]
