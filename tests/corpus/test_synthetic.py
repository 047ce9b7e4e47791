"""The synthetic corpus: reproducible, labelled by name, and told apart by its classes' shapes."""

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.corpus.synthetic import CLASSES, synthesize, write_corpus


def _generator(seed):
    return np.random.Generator(np.random.Philox(seed))


def _power(waveform):
    """Power spectrogram [T, F]: 32 ms frames every 16 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 512)[::256]
    return np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_seed_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        write_corpus(tmp_path / name, num_clips=5, seconds=(0.2, 0.4), seed=3)
    assert _contents(tmp_path / "a") == _contents(tmp_path / "b")


def test_another_seed_gives_other_files(tmp_path):
    for seed in (3, 4):
        write_corpus(tmp_path / str(seed), num_clips=4, seconds=(0.2, 0.4), seed=seed)
    a, b = _contents(tmp_path / "3"), _contents(tmp_path / "4")
    assert a.keys() == b.keys()
    assert all(a[name] != b[name] for name in a)


def test_more_clips_leave_the_first_ones(tmp_path):
    for num_clips in (3, 6):
        write_corpus(tmp_path / str(num_clips), num_clips=num_clips, seconds=(0.2, 0.4))
    assert _contents(tmp_path / "3").items() <= _contents(tmp_path / "6").items()


def test_files_are_named_by_class_and_index(tmp_path):
    write_corpus(tmp_path, num_clips=6, seconds=(0.5, 1.0))
    infos = {path.name: sf.info(path) for path in tmp_path.iterdir()}
    classes = "tone", "chirp", "noise_burst", "harmonic_voice", "tone", "chirp"
    assert infos.keys() == {f"{name}_{index}.flac" for index, name in enumerate(classes)}
    assert {info.samplerate for info in infos.values()} == {16_000}
    assert all(0.5 <= info.duration <= 1.0 for info in infos.values())
    assert len({info.duration for info in infos.values()}) == 6


@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize("num_samples", [0, 1, 16000])
def test_a_clip_has_the_length_asked_for_and_does_not_clip(label, num_samples):
    waveform = synthesize(label, num_samples, _generator(1))
    assert waveform.dtype == np.float32
    assert waveform.shape == (num_samples,)
    assert np.abs(waveform).max(initial=0) <= 0.8


def _features(waveform):
    """(share of power in the strongest band, drift of the strongest band, level's deviation, share above 3.6 kHz)."""
    power = _power(waveform)
    spectrum = power.mean(axis=0)
    level = power.sum(axis=1)
    peaks = power.argmax(axis=1)
    return (
        spectrum.max() / spectrum.sum(),
        peaks.std(),
        level.std() / level.mean(),
        spectrum[116:].sum() / spectrum.sum(),
    )


def test_each_class_has_its_own_shape():
    seeds = range(12)
    features = {name: np.array([_features(synthesize(name, 32000, _generator(s))) for s in seeds]) for name in CLASSES}
    purity, drift, swing, high = range(4)
    assert features["tone"][:, drift].max() < 0.5 < features["chirp"][:, drift].min()
    assert features["tone"][:, purity].min() > features["chirp"][:, purity].max()
    assert features["noise_burst"][:, high].min() > 0.3 > 0.01 > features["harmonic_voice"][:, high].max()
    assert features["harmonic_voice"][:, swing].min() > features["chirp"][:, swing].max()
