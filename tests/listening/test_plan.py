"""Which samples are heard, what becomes of those that cannot be, and that the same choice is the same session."""

import json
import shutil
from dataclasses import replace

import pytest
from made_sets import TEXTS, make_run, make_set, write_tone

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.listening.plan import choose_sets, find_place, open_session, plan_session
from xtts_gatekeeper.listening.session import REAL, read_session, sessions_in
from xtts_gatekeeper.samples.sets import Sample, read_set, write_spoken
from xtts_gatekeeper.samples.speak import sets_in
from xtts_gatekeeper.samples.voice import HeldOut, read_held_out

SECRET = "0f" * 16


def sets_of(tmp_path, *steps, **values):
    return [make_set(tmp_path / str(step), step, **values) for step in steps]


def planned(sets, real=(), prompts=None):
    return plan_session(sets, real, prompts, created="now", secret=SECRET)


def names(sets):
    return [made.folder.name for made in sets]


# The choice of sets


def test_the_newest_set_is_heard_against_the_one_before_it(tmp_path):
    assert names(choose_sets(sets_of(tmp_path, 100, 200, 300))) == ["200", "300"]


def test_the_best_checkpoints_set_is_heard_too_where_it_is_another(tmp_path):
    sets = sets_of(tmp_path, 100, 200, 300)
    assert names(choose_sets(sets, best=100)) == ["100", "200", "300"]
    assert names(choose_sets(sets, best=200)) == names(choose_sets(sets, best=250)) == ["200", "300"]


def test_sets_of_other_prompts_than_the_newest_are_not_chosen(tmp_path):
    sets = [make_set(tmp_path / "100", 100), *sets_of(tmp_path, 200, 300, prompts="others")]
    assert names(choose_sets(sets, best=100)) == ["200", "300"]


def test_one_set_alone_can_be_heard(tmp_path):
    assert names(choose_sets(sets_of(tmp_path, 100))) == ["100"]


def test_sets_by_name(tmp_path):
    sets = sets_of(tmp_path, 100, 200, 300)
    assert names(choose_sets(sets, ["300", "100", "100"])) == ["100", "300"]
    with pytest.raises(UserError, match=r"no set of samples '30'.*did you mean '300'"):
        choose_sets(sets, ["30"])


def test_what_cannot_be_compared_is_refused(tmp_path):
    sets = [make_set(tmp_path / "100", 100, prompts="others"), make_set(tmp_path / "200", 200)]
    with pytest.raises(UserError, match="not of the same prompts"):
        choose_sets(sets, ["100", "200"])
    many = sets_of(tmp_path, *range(1, 8))
    with pytest.raises(UserError, match="7 sets are too many"):
        choose_sets(many, names(many))
    with pytest.raises(UserError, match="no samples"):
        choose_sets([])


# Where samples lie


def test_a_run_its_folders_and_what_holds_it_are_the_same_place(tmp_path):
    run = make_run(tmp_path / "runs" / "one")
    for path in (run, run / "gatekeeper", run / "gatekeeper" / "samples", run.parent):
        assert find_place(path).run == run
    make_run(tmp_path / "runs" / "two")
    with pytest.raises(UserError, match="holds 2 runs with samples; name one of them: one, two"):
        find_place(run.parent)


def test_a_plain_folder_of_sets_keeps_its_sessions_itself(tmp_path):
    sets_of(tmp_path / "sets", 100, 200)
    place = find_place(tmp_path / "sets")
    assert (place.run, place.samples, place.listening) == (None, tmp_path / "sets", tmp_path / "sets" / "listening")
    session, _ = open_session(place, sets_in(place.samples))
    assert names(sets_in(place.samples)) == ["100", "200"]  # the sessions are not taken for one
    assert session.systems[0].name == "step 100"


def test_nothing_to_listen_to_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no samples"):
        find_place(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        find_place(tmp_path / "nothing")


# The session


def test_every_own_prompt_is_a_group_with_each_systems_first_take(tmp_path):
    sets = sets_of(tmp_path, 100, 200)
    for made in sets:
        more = [
            Sample(file="p1.wav", prompt="p1", text=TEXTS[0], language="en", take=1),
            Sample(file="p1.wav", prompt="fremd", text="Ein Satz.", language="de", own=False),
        ]
        write_spoken(replace(made, samples=(*made.samples, *more)))
    session = planned([read_set(made.folder) for made in sets])
    assert [group.text for group in session.groups] == list(TEXTS)
    assert all([s.source for s in group.stimuli] == ["100", "200"] for group in session.groups)
    assert [s.file for s in session.groups[0].stimuli] == ["100/p1.wav", "200/p1.wav"]


def test_what_could_not_be_spoken_is_kept_as_failed_and_what_was_skipped_is_left_out(tmp_path):
    sets = [make_set(tmp_path / "100", 100, failed=("p1",)), make_set(tmp_path / "200", 200, skipped=("p2",))]
    first, second, third, *_ = planned(sets).groups
    assert ([s.source for s in first.stimuli], first.failed) == (["200"], ("100",))
    assert ([s.source for s in second.stimuli], second.failed) == (["100"], ())
    assert ([s.source for s in third.stimuli], third.failed) == (["100", "200"], ())


@pytest.mark.parametrize("content", [b"", b"RIFF", None])
def test_a_file_in_which_there_is_nothing_to_hear_is_a_failed_sample(tmp_path, content):
    sets = sets_of(tmp_path, 100, 200)
    broken = sets[0].folder / "p1.wav"
    if content is None:
        write_tone(broken, 440, level=0.0)
    else:
        broken.write_bytes(content)
    group = planned(sets).groups[0]
    assert ([s.source for s in group.stimuli], group.failed) == (["200"], ("100",))


def test_a_session_in_which_there_is_nothing_to_hear_is_refused(tmp_path):
    everything = tuple(f"p{number}" for number in range(1, 6))
    with pytest.raises(UserError, match="nothing to hear"):
        planned(sets_of(tmp_path, 100, failed=everything))
    foreign = make_set(tmp_path / "400", 400)
    with pytest.raises(UserError, match="no prompt in a language that is trained on"):
        planned([replace(foreign, samples=tuple(replace(sample, own=False) for sample in foreign.samples))])
    sets = [make_set(tmp_path / "200", 200), make_set(tmp_path / "300", 300, skipped=everything)]
    with pytest.raises(UserError, match="for want of time"):
        planned(sets)


def clip(path, text, seconds=2.0, language="en"):
    return HeldOut(write_tone(path, 700, seconds), seconds, text, language, "anna")


def test_a_real_clip_that_says_what_a_prompt_says_is_hidden_among_its_samples(tmp_path):
    sets = sets_of(tmp_path / "sets", 100, 200)
    same = clip(tmp_path / "same.wav", f"  {TEXTS[1].upper()}!")
    german = clip(tmp_path / "german.wav", TEXTS[0], language="de")
    session = planned(sets, [german, same])
    assert [group.of(REAL) is not None for group in session.groups] == [False, True, False, False, False]
    assert session.groups[1].of(REAL).file == str(same.path)


def test_at_most_two_other_real_clips_stand_alone(tmp_path):
    sets = sets_of(tmp_path / "sets", 100, 200)
    texts = ("Too long to be heard in one go.", "One of the clips to hear.", "", "Another clip to hear here.", "No.")
    seconds = (13.0, 2.0, 2.0, 2.0, 0.5)
    clips = [clip(tmp_path / f"{n}.wav", text, s) for n, (text, s) in enumerate(zip(texts, seconds, strict=True))]
    clips += [clip(tmp_path / "x.wav", "A third one of much greater length than any of the prompts has at all.")]
    alone = [group for group in planned(sets, clips).groups if group.id.startswith("real/")]
    assert [group.text for group in alone] == [texts[3], texts[1]]
    assert all([s.source for s in group.stimuli] == [REAL] for group in alone)


def test_real_clips_are_of_the_speaker_whose_voice_the_samples_have(tmp_path):
    sets = sets_of(tmp_path / "sets", 100, 200)
    sets = [replace(made, voice={"speaker": "ben"}) for made in sets]
    anna = clip(tmp_path / "anna.wav", TEXTS[0])
    ben = replace(clip(tmp_path / "ben.wav", "What Ben has to say to this."), speaker="ben")
    assert [g.text for g in planned(sets, [anna, ben]).groups if g.of(REAL)] == [ben.text]
    assert [g.text for g in planned(sets, [anna]).groups if g.of(REAL)] == [TEXTS[0]]  # better than none


@pytest.mark.parametrize("file", ["../../other.wav", "link.wav", "/other.wav"])
def test_a_set_that_names_a_file_elsewhere_is_refused(tmp_path, file):
    elsewhere = write_tone(tmp_path / "other.wav", 440)
    made = make_set(tmp_path / "sets" / "100", 100)
    (made.folder / "link.wav").symlink_to(elsewhere)
    file = str(elsewhere) if file.startswith("/") else file
    first, *others = made.samples
    with pytest.raises(UserError, match="does not lie there"):
        planned([replace(made, samples=(replace(first, file=file), *others))])


def test_fewer_prompts_make_scores_that_are_not_compared_with_those_of_all(tmp_path):
    sets = sets_of(tmp_path, 100, 200)
    few = planned(sets, prompts=2)
    assert [group.text for group in few.groups] == list(TEXTS[:2])
    assert few.prompts != planned(sets).prompts == "fingerprint"
    assert planned(sets, prompts=99).prompts == "fingerprint"


def test_the_same_choice_goes_on_with_the_same_session(tmp_path):
    place = find_place(make_run(tmp_path / "run", real=[TEXTS[0], "Another text."]))
    real = read_held_out(place.run)
    first, new = open_session(place, sets_in(place.samples), real)
    again, still_new = open_session(place, sets_in(place.samples), real)
    assert (new, still_new, again) == (True, False, first)
    assert sessions_in(place.listening) == [(place.listening / first.id, first)]


def test_another_file_or_another_choice_is_another_session(tmp_path):
    place = find_place(make_run(tmp_path / "run"))
    sets = sets_in(place.samples)
    whole = open_session(place, sets)[0]
    assert open_session(place, sets[:1])[0].id != whole.id
    assert open_session(place, sets, prompts=2)[0].id != whole.id
    write_tone(sets[0].folder / "p1.wav", 555)
    assert open_session(place, sets)[0].id != whole.id


def test_the_secret_is_for_the_owner_alone(tmp_path):
    place = find_place(make_run(tmp_path / "run"))
    session, _ = open_session(place, sets_in(place.samples))
    assert (place.listening / session.id).stat().st_mode & 0o077 == 0
    other = tmp_path / "copy"
    shutil.copytree(place.run, other)
    shutil.rmtree(other / "gatekeeper" / "listening")
    assert open_session(find_place(other), sets_in(other / "gatekeeper" / "samples"))[0].secret != session.secret


@pytest.mark.parametrize("content", ["", "[]", '{"version": 2}', '{"version": 1, "id": 3}'])
def test_a_session_file_that_is_none_is_one_sentence(tmp_path, content):
    (tmp_path / "session.json").write_text(content)
    with pytest.raises(UserError, match="is not what we write"):
        read_session(tmp_path)


def test_a_name_of_a_prompt_or_a_text_in_markup_is_kept_as_it_is(tmp_path):
    text = "<script>alert('x')</script> \u2028 & \"quoted\""
    place = find_place(make_run(tmp_path / "run", texts=(text,)))
    session, _ = open_session(place, sets_in(place.samples))
    assert read_session(place.listening / session.id).groups[0].text == text
    assert json.loads((place.listening / session.id / "session.json").read_text())["groups"][0]["text"] == text
