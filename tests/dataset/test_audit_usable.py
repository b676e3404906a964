"""Whether XTTS trains on a clip: what we say of it, against what the stock dataset does with it."""

import json
import struct
import wave

import pytest

from xtts_gatekeeper.data import LANGUAGES
from xtts_gatekeeper.dataset.clip import Audio, Clip
from xtts_gatekeeper.dataset.store import MISSING, Store
from xtts_gatekeeper.dataset.tokens import (
    TokenProcess,
    Tokens,
    encode,
    keep_tokens,
    known_tokens,
    text_key,
    vocab_name,
)
from xtts_gatekeeper.dataset.usable import Limits, resampled, unusable

GOOD = Audio("0" * 32, seconds=3.0, sample_rate=22050)


def codes(clip, audio=GOOD, tokens=None, limits=None):
    return [fault.code for fault in unusable(clip, audio, tokens, limits or Limits())]


def clip(text="Some words.", language="en"):
    return Clip("a", "/a.wav", text, language)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    """A vocab.json of XTTS's kind that knows single Latin letters."""
    tokenizers = pytest.importorskip("tokenizers")
    specials = ["[STOP]", "[UNK]", "[SPACE]", *(f"[{language}]" for language in LANGUAGES)]
    names = [*specials, *"abcdefghijklmnopqrstuvwxyz.,'!?", "[START]"]
    model = tokenizers.models.BPE({name: number for number, name in enumerate(names)}, [], unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.add_special_tokens([*specials, "[START]"])
    file = tmp_path_factory.mktemp("vocab") / "vocab.json"
    tokenizer.save(str(file))
    return file


@pytest.fixture(scope="module")
def tokenizer(vocab):
    pytest.importorskip("TTS")
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

    return VoiceBpeTokenizer(str(vocab))


def test_a_good_clip_has_no_fault():
    assert codes(clip(), tokens=Tokens(12, 0, 0)) == []


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("", "en", ["empty_text"]),
        (" \n", "en", ["empty_text"]),
        ("…!", "en", ["no_words"]),
        ("words", "xx", ["language"]),
        ("words", "", ["language"]),
        ("words", "en-us", []),
        ("words", "zh", []),
    ],
)
def test_texts_and_languages(text, language, expected):
    assert codes(clip(text, language)) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (Tokens(200, 0, 0), []),
        (Tokens(201, 0, 0), ["long_text"]),
        (Tokens(10, 2, 0), ["unknown_token"]),
        (Tokens(10, 0, 1), ["stop_token"]),
        (Tokens(0, 0, 0, "ImportError: no pypinyin"), ["tokenizer"]),
        (None, []),
    ],
)
def test_tokens(tokens, expected):
    assert codes(clip(), tokens=tokens) == expected


def test_a_file_that_is_not_there_and_one_that_is_no_audio():
    assert codes(clip(), Audio(MISSING, "/a.wav does not exist")) == ["no_file"]
    assert codes(clip(), Audio("0" * 32, "/a.wav is not readable as audio")) == ["unreadable"]


def test_limits_of_a_run_are_those_of_its_config():
    config = {"audio": {"sample_rate": 24000}, "model_args": {"max_wav_length": 100000, "max_text_length": None}}
    assert Limits.of_config(config) == Limits(24000, 100000, 200)
    assert Limits.of_config({"audio": None}) == Limits()


def test_the_defaults_are_the_stacks():
    pytest.importorskip("TTS")
    from TTS.tts.configs.xtts_config import XttsAudioConfig
    from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTArgs

    limits = Limits()
    assert (limits.max_wav_length, limits.max_text_length) == (GPTArgs().max_wav_length, GPTArgs().max_text_length)
    assert limits.sample_rate == XttsAudioConfig().sample_rate


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 44100, 48000])
def test_lengths_after_resampling_are_torchaudios(rate):
    torchaudio, torch = pytest.importorskip("torchaudio"), pytest.importorskip("torch")
    for samples in (1, 7, 4000, 8001, 11025, 12345):
        length = torchaudio.functional.resample(torch.zeros(1, samples), rate, 22050).shape[-1]
        assert resampled(samples / rate, rate, 22050) == length


def write_wav(file, samples, rate=22050, channels=1):
    with wave.open(str(file), "wb") as out:
        out.setparams((channels, 2, rate, 0, "NONE", ""))
        tone = (((number * 37) % 2001 - 1000) for number in range(samples * channels))
        out.writeframes(struct.pack(f"<{samples * channels}h", *tone))
    return file


FILES = {
    "good": (22050, 22050, 1),
    "half a second": (11025, 22050, 1),
    "one sample less": (11024, 22050, 1),
    "half a second at 8 kHz": (4000, 8000, 1),
    "less at 8 kHz": (3999, 8000, 1),
    "stereo": (16000, 16000, 2),
    "as long as may be": (60000, 22050, 1),
    "one sample more": (60001, 22050, 1),
    "too long at 8 kHz": (21770, 8000, 1),
    "just fits at 8 kHz": (21768, 8000, 1),
}
TEXTS = {
    "good": ("Some words, it's true.", "en"),
    "empty": ("", "en"),
    "blank": ("  ", "en"),
    "a letter that it does not know": ("Grüße", "de"),
    "a number": ("It is 12.", "en"),
    "no language": ("words", "xx"),
    "just fits": ("abc " * 4 + "abc", "en"),
    "too long": ("abc " * 4 + "abcd", "en"),
    "it spells a stop": ("some [STOP] words", "en"),
}


@pytest.mark.parametrize(
    ("file", "text"),
    [*((file, "good") for file in (*FILES, "no audio", "nothing", "cut off")), *(("good", text) for text in TEXTS)],
)
def test_we_say_what_the_stock_dataset_does(file, text, tmp_path, tokenizer):
    from TTS.tts.layers.xtts.trainer.dataset import XTTSDataset

    from xtts_gatekeeper.dataset.scan import scan

    path = tmp_path / "a.wav"
    if file in FILES:
        write_wav(path, *FILES[file])
    elif file == "no audio":
        path.write_text("this is no audio at all\n" * 100)
    elif file == "cut off":
        write_wav(path, 22050)
        path.write_bytes(path.read_bytes()[:30])
    words, language = TEXTS[text]
    limits = Limits(22050, 60000, 21)

    dataset = XTTSDataset.__new__(XTTSDataset)
    dataset.tokenizer, dataset.sample_rate = tokenizer, limits.sample_rate
    dataset.max_wav_len, dataset.max_text_len = limits.max_wav_length, limits.max_text_length
    dataset.is_eval, dataset.use_masking_gt_prompt_approach = True, True
    dataset.min_conditioning_length = dataset.max_conditioning_length = 11025
    dataset.samples = [{"text": words, "language": language, "audio_file": str(path)}]
    dataset.check_eval_samples()
    used = bool(dataset.samples)

    with Store.open(tmp_path / "cache") as store:
        scan(store, [str(path)], workers=1)
        audio = store.audio([str(path)])[str(path)]
    faults = list(unusable(Clip("a", str(path), words, language), audio, encode(tokenizer, language, words), limits))
    assert (not any(fault.severity == "unusable" for fault in faults)) == used, faults


def test_the_process_finds_the_tokens_that_the_tokenizer_makes(vocab, tokenizer, tmp_path):
    texts = [("en", "Some words."), ("en", "It is 12."), ("de", "Grüße"), ("xx", "what"), ("en", "a\nb"), ("en", "")]
    expected = {text_key(*text): encode(tokenizer, *text) for text in texts}
    with TokenProcess(vocab, [(text_key(*text), *text) for text in texts]) as process:
        assert process.wait() is None
        found = dict(process.answers())
    assert found == expected
    assert found[text_key("xx", "what")].error.startswith("NotImplementedError")

    name = vocab_name(vocab)
    with Store.open(tmp_path / "cache") as store:
        keep_tokens(store, name, found.items())
    with Store.open(tmp_path / "cache") as store:
        assert dict(known_tokens(store, name, expected)) == expected
        assert not dict(known_tokens(store, "another", expected))


def test_a_tokenizer_that_cannot_be_run_says_why(tmp_path):
    pytest.importorskip("TTS")
    (tmp_path / "vocab.json").write_text(json.dumps({"model": "none"}))
    with TokenProcess(tmp_path / "vocab.json", [(text_key("en", "a"), "en", "a")]) as process:
        assert "Error" in process.wait() or "Exception" in process.wait()


def test_the_tokenizers_process_ends_with_its_block(vocab):
    with pytest.raises(KeyboardInterrupt), TokenProcess(vocab, [(text_key("en", "a"), "en", "a")]) as process:
        raise KeyboardInterrupt
    assert process._process.returncode is not None
