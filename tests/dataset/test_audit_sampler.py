"""How often XTTS draws a clip, against its own sampler."""

import random
from collections import Counter

import pytest

from xtts_gatekeeper.dataset.sampler import Group, draws, warnings


def group(language, clips, usable=None, speaker="ann"):
    usable = clips if usable is None else usable
    return Group(language, speaker, clips, usable, clips * 5.0, usable * 5.0)


def xtts_draws(groups, count):
    """What the stock dataset draws; only its loading of files is replaced."""
    pytest.importorskip("TTS")
    import torch
    from TTS.tts.layers.xtts.trainer.dataset import XTTSDataset

    class Dataset(XTTSDataset):
        def __init__(self):
            self.is_eval = self.debug_failures = False
            self.failed_samples = set()
            self.max_wav_len = self.max_text_len = 100
            self.samples = {}

        def load_item(self, sample):
            group, usable = sample
            if not usable:
                raise ValueError
            return torch.zeros(3), group, torch.zeros(1, 10), torch.zeros(1, 5), 5, torch.nan

    dataset = Dataset()
    for one in groups:
        dataset.samples.setdefault(one.language, []).extend((one, number < one.usable) for number in range(one.clips))
    random.seed(0)
    return Counter(dataset[number]["filenames"] for number in range(count))


def test_the_shares_are_those_of_the_draws():
    groups = [group("en", 60), group("en", 20, 5, "bob"), group("fr", 10, 10), group("ru", 30, 15)]
    count = 4000
    seen = xtts_draws(groups, count)
    for one in draws(groups):
        assert one.share == pytest.approx(seen[one.group] / count, abs=0.03)
    assert sum(one.share for one in draws(groups)) == pytest.approx(1)


def test_a_single_clip_of_a_second_language_gets_half_of_the_draws():
    few, many = draws([group("de", 1), group("en", 99)])
    assert few.share == many.share == 0.5
    assert few.per_epoch == 50
    assert many.per_epoch == pytest.approx(50 / 99)
    (said,) = warnings([few, many])
    assert "de with 1 clip gets 50% of the draws" in said
    assert "50.0 times an epoch" in said


def test_even_data_is_not_complained_of():
    assert not warnings(draws([group("en", 50), group("de", 70), group("en", 40, speaker="bob")]))


def test_a_third_of_the_clips_of_one_language_are_not_drawn_in_an_epoch():
    (one,) = draws([group("en", 1000)])
    assert one.per_epoch == pytest.approx(1)
    assert one.unheard_share == pytest.approx(0.3677, abs=0.001)


def test_a_speaker_who_is_hardly_heard_is_named():
    (said,) = warnings(draws([group("en", 500), group("en", 10, speaker="bob")]))
    assert "98% are of speaker ann" in said
    assert "bob" in said


def test_a_language_of_no_use_and_data_of_no_use():
    some = draws([group("en", 10), group("xx", 10, 0)])
    assert some[1].share == some[1].per_epoch == 0
    assert some[0].share == 1
    assert any("no clip of xx" in said for said in warnings(some))
    (said,) = warnings(draws([group("xx", 10, 0)]))
    assert "RecursionError" in said
    assert draws([]) == []
    assert warnings([]) == []
