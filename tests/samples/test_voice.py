"""The voice of the samples is taken from clips that are not trained on, and known by their content."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.samples.voice import (
    HeldOut,
    choose_voice,
    held_out,
    kept_voice,
    longest_of_a_speaker,
    read_held_out,
    references_of,
)


@pytest.fixture
def clip(tmp_path):
    """A function that makes a clip of so many seconds and answers Coqui's sample for it."""

    def make(name, seconds, speaker="ada", **more):
        path = tmp_path / f"{name}.wav"
        if seconds is not None:
            noise = np.random.default_rng(len(name)).normal(0, 0.1, int(seconds * 16000))
            soundfile.write(path, noise, 16000)
        return {"audio_file": str(path), "text": f"Text of {name}.", "language": "en", "speaker_name": speaker, **more}

    return make


def names(clips):
    return [Path(getattr(clip, "path", clip)).stem for clip in clips]


def test_only_clips_are_held_out_that_a_voice_can_be_taken_from(clip, tmp_path):
    broken = clip("broken", None)
    Path(broken["audio_file"]).write_text("no audio")
    clips = [clip("good", 1.0), clip("gone", None), clip("tiny", 0.2), broken, {"text": "no file"}, "no clip"]
    found = held_out(clips)
    path = tmp_path / "good.wav"
    assert found == [HeldOut(path, 1.0, "Text of good.", "en", "ada")]


def test_the_three_longest_of_one_speaker_are_the_voice(clip):
    clips = [clip(f"a{n}", seconds) for n, seconds in enumerate((4, 5, 6, 7, 13, 2))]
    clips += [clip(f"b{n}", seconds, "bob") for n, seconds in enumerate((6.5, 3))]
    found = held_out(clips)
    assert names(longest_of_a_speaker(found)) == ["a3", "a2", "a1"]
    voice = choose_voice(found)
    assert (names(voice.files), voice.speaker, voice.origin) == (["a3", "a2", "a1"], "ada", "held out of training")


def test_short_clips_make_a_voice_together(clip):
    """Of the speaker with the most clips, until there are 6 s."""
    clips = [clip(f"a{n}", 1.0 + n / 10) for n in range(8)] + [clip("b", 2.9, "bob"), clip("long", 20.0)]
    found = held_out(clips)
    assert longest_of_a_speaker(found) == []
    assert names(choose_voice(found).files) == ["a7", "a6", "a5", "a4"]
    assert names(choose_voice(found[:1]).files) == ["a0"]
    assert choose_voice([]) is None


def test_clips_that_are_given_are_the_voice(clip, tmp_path):
    own = held_out([clip("a", 4.0), clip("b", 4.0, "bob")])
    given = [clip("b", 4.0, "bob")["audio_file"], clip("x", 3.5)["audio_file"]]
    voice = choose_voice(own, given)
    assert (names(voice.files), voice.speaker, voice.origin) == (["b", "x"], "bob", "given")
    assert choose_voice(own, given[1:]).speaker == ""
    with pytest.raises(UserError, match=r"nothing\.wav cannot be read as audio"):
        choose_voice(own, [str(tmp_path / "nothing.wav")])


def test_references_are_all_clips_of_the_speaker(clip):
    clips = held_out([clip("a", 4.0), clip("b", 4.0, "bob"), clip("c", 1.0)])
    voice = choose_voice(clips)
    assert [Path(one.audio_file).stem for one in references_of(clips, voice)] == ["a", "c"]
    first = references_of(clips, voice)[0]
    assert (first.text, first.language, first.speaker) == ("Text of a.", "en", "ada")
    stranger = choose_voice(clips, [clip("x", 3.5)["audio_file"]])
    assert len(references_of(clips, stranger)) == 3


def test_a_kept_voice_is_the_same_as_long_as_its_clips_are(clip, tmp_path):
    voice = choose_voice(held_out([clip("a", 4.0), clip("b", 3.5)]))
    told = json.loads(json.dumps(voice.to_dict()))
    assert kept_voice(told) == voice
    clip("b", 3.6)
    assert kept_voice(told) is None
    (tmp_path / "b.wav").unlink()
    assert kept_voice(told) is None
    for nothing in ({}, {"files": []}, {"files": [{}]}, None):
        assert kept_voice(nothing) is None


def test_the_held_out_clips_of_a_run_are_read_from_its_folder(clip, tmp_path):
    (tmp_path / "gatekeeper").mkdir()
    listed = tmp_path / "gatekeeper" / "eval_clips.json"
    assert read_held_out(tmp_path) == []
    listed.write_text("{")
    assert read_held_out(tmp_path) == []
    listed.write_text("{}")
    assert read_held_out(tmp_path) == []
    listed.write_text(json.dumps([clip("a", 4.0)]))
    assert names(read_held_out(tmp_path)) == ["a"]
