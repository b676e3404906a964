"""Which clips are held out, and that nothing but a clip's own audio decides about it."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtts_gatekeeper.dataset import split as module
from xtts_gatekeeper.dataset.selection import leave_out, read_names
from xtts_gatekeeper.dataset.split import pinned_split, stable_split, without_evaluation
from xtts_gatekeeper.errors import UserError


def clip(path, text="Words.", speaker="ann", language="en"):
    return {
        "audio_file": str(path),
        "text": text,
        "speaker_name": speaker,
        "language": language,
        "audio_unique_name": f"set#wavs/{path.stem}",
    }


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four hundred files; what is in them is no audio, for nobody asks."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(400):
        (folder / f"{number}.wav").write_bytes(f"clip {number}".encode())
    return [clip(folder / f"{number}.wav", speaker="ann" if number % 4 else "bob") for number in range(400)]


def names(samples):
    return [sample["audio_file"] for sample in samples]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_is_added_or_removed_no_other_clip_moves(clips, data):
    subset = data.draw(st.lists(st.sampled_from(range(400)), min_size=60, max_size=400, unique=True))
    train, held_out = stable_split(clips)
    fewer, fewer_held_out = stable_split([clips[number] for number in subset])
    assert set(names(fewer)) <= set(names(train))
    assert set(names(fewer_held_out)) <= set(names(held_out))


def test_order_paths_and_transcripts_move_none(clips, tmp_path):
    _, held_out = stable_split(clips)
    others = []
    for sample in clips:
        path = tmp_path / f"{random.Random(sample['audio_file']).random()}.wav"
        path.write_bytes(open(sample["audio_file"], "rb").read())  # noqa: PTH123, SIM115
        others.append({**clip(path, text="Other words.", language="de"), "before": sample["audio_file"]})
    random.Random(0).shuffle(others)
    _, moved = stable_split(others)
    assert {sample["before"] for sample in moved} == set(names(held_out))


def test_copies_of_one_file_come_to_the_same_side(tmp_path):
    for number in range(40):
        for copy in "ab":
            (tmp_path / f"{number}{copy}.wav").write_bytes(f"clip {number}".encode())
    samples = [clip(tmp_path / f"{number}{copy}.wav") for copy in "ab" for number in range(40)]
    sides = stable_split(samples, 0.4)
    for side in sides:
        stems = {path[:-5] for path in names(side)}
        assert len(side) == 2 * len(stems)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.6])
def test_every_speaker_has_about_its_share_held_out(clips, fraction):
    _, held_out = stable_split(clips, fraction)
    for speaker, count in (("ann", 300), ("bob", 100)):
        share = sum(sample["speaker_name"] == speaker for sample in held_out) / count
        assert abs(share - fraction) < 4 * (fraction * (1 - fraction) / count) ** 0.5


def test_a_larger_fraction_only_takes_clips_from_training(clips):
    before = set()
    for fraction in (0.05, 0.1, 0.2, 0.5, 0.9):
        now = set(names(stable_split(clips, fraction)[1]))
        assert before < now
        before = now


def test_a_floor_that_is_not_met_is_refused_with_the_fraction_that_meets_it(clips):
    few = clips[:40]
    _, held_out = stable_split(few, 0.1)
    with pytest.raises(UserError, match=r"use eval_fraction=(0\.\d+)") as refused:
        stable_split(few, 0.1, minimum_clips=len(held_out) + 5)
    enough = float(str(refused.value).rsplit("=", 1)[1])
    assert len(stable_split(few, enough, minimum_clips=len(held_out) + 5)[1]) >= len(held_out) + 5
    assert f"{len(held_out)} of 40 clips were held out at eval_fraction=0.1" in str(refused.value)


def test_a_floor_of_seconds_counts_what_is_heard(clips, monkeypatch):
    monkeypatch.setattr(module, "_seconds", lambda samples: 2.5 * len(list(samples)))
    _, held_out = stable_split(clips[:40], 0.2)
    seconds = 2.5 * len(held_out)
    assert stable_split(clips[:40], 0.2, minimum_seconds=seconds)[1] == held_out
    with pytest.raises(UserError, match=rf"1 clips and {seconds + 1:g} s are needed"):
        stable_split(clips[:40], 0.2, minimum_seconds=seconds + 1)


def test_a_floor_that_no_fraction_meets_asks_for_clips(clips):
    with pytest.raises(UserError, match=r"needed; add clips$"):
        stable_split(clips[:40], minimum_clips=50)


# Bad input


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_fraction_outside_zero_and_one_is_refused(clips, fraction):
    with pytest.raises(UserError, match=r"eval_fraction is .* between 0 and 1"):
        stable_split(clips, fraction)


def test_split_of_fewer_than_two_clips_is_refused(clips):
    for samples in (clips[:1], []):
        with pytest.raises(UserError, match=rf"^{len(samples)} clip"):
            stable_split(samples)


def test_empty_side_of_a_split_is_refused_with_the_remedy(clips):
    with pytest.raises(UserError, match=r"0 of 400 clips were held out at eval_fraction=1e-06, .* use eval_fraction"):
        stable_split(clips, 1e-6)
    with pytest.raises(UserError, match=r"all 400 clips .*eval_fraction=0\.999999.*add clips or use a smaller"):
        stable_split(clips, 0.999999)


# Pinned


def test_a_list_holds_out_what_it_names_and_nothing_else(clips):
    train, held_out, unknown = pinned_split(clips, ["3.wav", "7", clips[9]["audio_file"], "nowhere.wav"])
    assert [sample["audio_unique_name"] for sample in held_out] == ["set#wavs/3", "set#wavs/7", "set#wavs/9"]
    assert len(train) == 397 and unknown == ["nowhere.wav"]


@pytest.mark.parametrize(("listed", "said"), [([], "none of the 2 clips"), (["0", "1"], "all 2 clips are on the list")])
def test_a_list_that_leaves_a_side_empty_is_refused(clips, listed, said):
    with pytest.raises(UserError, match=said):
        pinned_split(clips[:2], listed)


def test_the_eval_clips_of_a_run_can_be_the_list(clips, tmp_path):
    listed = tmp_path / "eval_clips.json"
    listed.write_text(json.dumps([clips[5], clips[6]]))
    assert read_names(listed) == names(clips[5:7])
    assert names(pinned_split(clips, read_names(listed))[1]) == names(clips[5:7])


@pytest.mark.parametrize("text", ["{", '["a"]', "7", '[{"text": "x"}]'])
def test_a_json_list_that_is_none_is_one_sentence(tmp_path, text):
    listed = tmp_path / "list.json"
    listed.write_text(text)
    with pytest.raises(UserError, match="the list of clips to evaluate with cannot be read"):
        read_names(listed, "evaluate with")


def test_leaving_out_keeps_the_order_and_says_what_was_not_there(clips):
    kept, unknown = leave_out(clips[:5], ["2.wav", "gone"])
    assert names(kept) == [names(clips)[number] for number in (0, 1, 3, 4)]
    assert unknown == ["gone"]


# Speakers


def test_a_speaker_whom_no_evaluation_hears_is_named(clips):
    train = [*clips[:30], *({**sample, "speaker_name": "cleo", "language": "fr"} for sample in clips[30:45])]
    assert without_evaluation(train, clips[50:60]) == [
        "none of the 15 clips of speaker cleo (fr) is held out to evaluate with"
    ]


def test_of_a_speaker_with_a_few_clips_none_has_to_be_held_out(clips):
    few = [{**sample, "speaker_name": "cleo"} for sample in clips[30:35]]
    assert without_evaluation([*clips[:30], *few], clips[50:60]) == []
