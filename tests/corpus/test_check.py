"""Every kind of fault is found where it was planted, and nothing else."""

import os
import shutil

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.corpus import check, processes
from mae_ast_fairseq.corpus.check import KINDS, check_manifest, fix
from mae_ast_fairseq.corpus.pack import pack
from mae_ast_fairseq.corpus.scan import scan
from mae_ast_fairseq.data.manifest import read_manifest, write_manifest
from mae_ast_fairseq.errors import AudioError

RATE = 16_000


def noise(num_samples=RATE, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(num_samples)


def write_clean(folder, num_files=20):
    """Write WAV files of half a second and more; return their manifest."""
    folder.mkdir()
    for index in range(num_files):
        sf.write(folder / f"{index:02}.wav", noise(8000 + 10 * index, index), RATE)
    write_manifest(folder / "train.tsv", folder, scan(folder)[0])
    return folder / "train.tsv"


def plant(manifest):
    """Plant one fault of every kind into the first rows, WAV files, of a manifest; return {(line, kind)}."""
    folder, lines = manifest.parent, manifest.read_text().splitlines()
    paths = [folder / line.split("\t")[0] for line in lines]

    def columns(line):
        _, num_samples, rate = [*lines[line - 1].split("\t"), str(RATE)][:3]
        return int(num_samples), int(rate)

    def write(line, waveform, **options):
        sf.write(paths[line - 1], waveform, columns(line)[1], **options)

    paths[1].unlink()
    paths[2].write_text("hello" * 100)
    os.truncate(paths[3], paths[3].stat().st_size - 1000)
    name, rate = lines[4].split("\t")[0], columns(5)[1]
    write(5, noise(100))
    lines[4] = f"{name}\t100\t{rate}"
    write(6, np.append(noise(columns(6)[0] - 1), np.nan), subtype="FLOAT")
    name, (num_samples, rate) = lines[6].split("\t")[0], columns(7)
    lines[6] = f"{name}\t{num_samples + 1}\t{rate}"
    name, (num_samples, rate) = lines[7].split("\t")[0], columns(8)
    lines[7] = f"{name}\t{num_samples}\t{rate + 1}"
    write(9, 1e-5 * noise(columns(9)[0]))
    write(10, np.clip(50 * noise(columns(10)[0]), -1, 1))
    write(14, 32_768 * noise(columns(14)[0]), subtype="FLOAT")
    write(15, np.stack([noise(columns(15)[0]), -noise(columns(15)[0])], axis=1))
    sf.write(paths[15], noise(columns(16)[0]), 1)
    lines[15] = f"{lines[15].split(chr(9))[0]}\t{columns(16)[0]}\t1"
    paths[12].write_bytes(2 * paths[12].read_bytes())
    copy = folder / "copy_in_another_container.flac"
    sf.write(copy, *sf.read(paths[10], dtype="int16"))
    lines += [lines[11], "\t".join([copy.name, *lines[10].split("\t")[1:]])]
    manifest.write_text("\n".join([*lines, ""]))
    kinds = "missing", "unreadable", "truncated", "too short", "non-finite", "other length", "other rate"
    planted = set(enumerate([*kinds, "silence", "clipping"], start=2))
    planted |= {(13, "longer than stated"), (14, "scale"), (15, "cancelling"), (16, "rate")}
    return planted | {(len(lines) - 1, "listed twice"), (len(lines), "same audio")}


def findings(path, **options):
    manifest = read_manifest(path)
    report = check_manifest(manifest, **options)
    assert len({(finding.row, finding.kind) for finding in report.findings}) == len(report.findings)
    return {(manifest.line(finding.row), finding.kind) for finding in report.findings}


def found(tmp_path, waveform, rate=RATE, name="a.wav", **options):
    """Return {kind: found} of one file whose manifest is right."""
    sf.write(tmp_path / name, waveform, rate, **options)
    (tmp_path / "one.tsv").write_text(f"{tmp_path}\n{name}\t{len(waveform)}\t{rate}\n")
    return {finding.kind: finding.found for finding in check_manifest(read_manifest(tmp_path / "one.tsv")).findings}


@pytest.fixture
def clean(tmp_path):
    return write_clean(tmp_path / "corpus")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_clean_corpus_has_no_findings(clean, num_workers):
    assert findings(clean, num_workers=num_workers) == set()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_one_fault_of_every_kind_is_found_and_nothing_else(clean, num_workers):
    planted = plant(clean)
    assert {kind for _, kind in planted} == set(KINDS)
    assert findings(clean, num_workers=num_workers) == planted


def test_faults_planted_among_real_recordings_are_found_and_nothing_else(recordings, tmp_path):
    folder = tmp_path / "audio"
    folder.mkdir()
    for pattern in ("fsdd/*_0.wav", "samples/elec_*.flac", "prompts_en/*.flac"):
        for file in sorted(recordings.glob(pattern))[:40]:
            shutil.copyfile(file, folder / f"{file.suffix[1:]}_{file.name}")
    names = sorted((file.name for file in folder.iterdir()), reverse=True)  # WAV first
    write_manifest(folder / "train.tsv", folder, scan(folder, paths=names)[0])
    before = findings(folder / "train.tsv")
    assert {kind for _, kind in before} <= {"clipping"}  # some are: they are drum samples
    planted = plant(folder / "train.tsv")
    assert findings(folder / "train.tsv", num_workers=2) == before | planted


def test_findings_come_by_row(clean):
    plant(clean)
    rows = [finding.row for finding in check_manifest(read_manifest(clean), num_workers=2).findings]
    assert rows == sorted(rows)


def test_more_rows_than_are_sent_to_workers_at_once_stay_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "_ROWS_PER_TASK", 1)
    monkeypatch.setattr(processes, "BLOCK_ITEMS", 5)
    path = write_clean(tmp_path / "corpus", num_files=12)
    report = check_manifest(read_manifest(path), num_workers=2)
    assert report.num_samples.tolist() == [8000 + 10 * index for index in range(12)]


# --- single kinds


def test_a_wrong_length_and_rate_say_what_was_found(tmp_path):
    sf.write(tmp_path / "a.wav", noise(), RATE)
    (tmp_path / "one.tsv").write_text(f"{tmp_path}\na.wav\t15999\t8000\n")
    report = check_manifest(read_manifest(tmp_path / "one.tsv"))
    assert [finding[1:] for finding in report.findings] == [
        ("other length", "16000 samples, the manifest says 15999"),
        ("other rate", "16000 Hz, the manifest says 8000 Hz"),
    ]


@pytest.mark.parametrize("place", ["folder", "a.wav/b.wav"])
def test_what_is_no_file_is_named(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.wav").touch()
    (tmp_path / "one.tsv").write_text(f"{tmp_path}\n{place}\t16000\n")
    kinds = {"folder": "unreadable", "a.wav/b.wav": "missing"}
    assert findings(tmp_path / "one.tsv") == {(2, kinds[place])}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_unreadable(clean):
    (clean.parent / "03.wav").chmod(0)
    assert findings(clean) == {(5, "unreadable")}


def test_a_file_damaged_in_the_middle_is_unreadable(tmp_path):
    sf.write(tmp_path / "a.flac", noise(10 * RATE), RATE)
    content = (tmp_path / "a.flac").read_bytes()
    middle = len(content) // 2
    (tmp_path / "a.flac").write_bytes(content[:middle] + bytes(3000) + content[middle + 3000 :])
    (tmp_path / "one.tsv").write_text(f"{tmp_path}\na.flac\t{10 * RATE}\n")
    assert findings(tmp_path / "one.tsv") == {(2, "unreadable")}


@pytest.mark.parametrize(("num_samples", "kinds"), [(879, {"too short"}), (880, set())])
def test_two_tokens_of_two_frames_are_long_enough(tmp_path, num_samples, kinds):
    assert found(tmp_path, noise(num_samples)).keys() == kinds


@pytest.mark.parametrize(("decibels", "kinds"), [(-81, {"silence"}), (-79, set())])
def test_silence_begins_below_80_decibels(tmp_path, decibels, kinds):
    waveform = noise(seed=1)
    waveform *= 10 ** (decibels / 20) / waveform.std()
    assert found(tmp_path, waveform, subtype="FLOAT").keys() == kinds


def test_a_level_is_told_in_decibels(tmp_path):
    waveform = 1e-5 * np.resize([1, -1], RATE)
    assert found(tmp_path, waveform, subtype="FLOAT") == {"silence": "-100.0 dBFS"}


def test_an_offset_is_silence(tmp_path):
    assert found(tmp_path, np.full(RATE, 0.25)) == {"silence": "digital silence"}


@pytest.mark.parametrize(("left", "mean"), [(0, "silence"), (0.02, "-60.0 dBFS")])
def test_channels_that_cancel_in_their_mean_are_named(tmp_path, left, mean):
    wave = 0.1 * np.resize([1, -1], RATE)
    report = found(tmp_path, np.stack([wave, (left - 1) * wave], axis=1), subtype="FLOAT")
    assert report.keys() == {"cancelling"}
    assert report["cancelling"].startswith("its channels cancel: -20.")
    assert report["cancelling"].endswith(f" dBFS each, {mean} as their mean")


@pytest.mark.parametrize("num_channels", [2, 32])
def test_one_channel_alone_and_opposite_offsets_do_not_cancel(tmp_path, num_channels):
    waveform = np.zeros((RATE, num_channels))
    waveform[:, 0] = noise()
    assert found(tmp_path, waveform) == {}
    waveform[:, :2] += [0.25, -0.25]
    assert found(tmp_path, waveform, subtype="FLOAT") == {}


@pytest.mark.parametrize(("factor", "bits"), [(2**15, 16), (2**23, 24), (2**31, 32)])
def test_a_scale_of_integers_is_an_error_that_names_the_divisor(tmp_path, factor, bits):
    waveform = noise() / np.abs(noise()).max()
    report = found(tmp_path, 0.5 * factor * waveform, subtype="FLOAT")
    assert report == {"scale": f"samples reach {0.5 * factor:.0f}: a scale of {bits} bits; divide by {factor}"}
    assert KINDS["scale"].severity == check.ERROR


@pytest.mark.parametrize(("peak", "kinds"), [(1.2, set()), (1.6, {"clipping"})])
def test_float_samples_a_little_above_full_scale_are_let_pass(tmp_path, peak, kinds):
    waveform = noise()
    assert found(tmp_path, peak * waveform / np.abs(waveform).max(), subtype="FLOAT").keys() == kinds


@pytest.mark.parametrize(("rate", "kinds"), [(1, {"rate"}), (999, {"rate"}), (1_000, set()), (768_000, set())])
def test_an_absurd_rate_is_found_and_rejected(tmp_path, rate, kinds):
    assert found(tmp_path, noise(60_000), rate).keys() == kinds
    rejected = scan(tmp_path)[1]
    assert len(rejected) == len(kinds)
    assert all(f"rate: its header states {rate} Hz" in reason for _, reason in rejected)


def test_one_sound_in_a_long_silence_is_no_silence(tmp_path):
    waveform = np.zeros(20 * RATE)
    waveform[-100:] = noise(100)
    assert found(tmp_path, waveform) == {}


@pytest.mark.parametrize("run", [1, 2, 3, 10])
def test_clipping_counts_the_samples_of_runs_of_three(tmp_path, run):
    waveform = noise(200_000)
    for start in range(1000, 100_000, 1000):  # 99 runs, some of them from block to block
        waveform[start : start + run] = 1
    for start in range(65_536 - run // 2, 199_000, 65_536):
        waveform[start : start + run] = -1
    expected = {} if run < 3 else {"clipping": f"{(99 + 3) * run / 200_000:.2%} of the samples in runs at full scale"}
    assert found(tmp_path, waveform) == expected


def test_jumps_from_end_to_end_of_the_scale_are_no_run(tmp_path):
    assert found(tmp_path, np.resize([1.0, -1.0], RATE)) == {}


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "ULAW", "ALAW", "FLOAT"])
def test_full_scale_is_that_of_the_format(tmp_path, subtype):
    assert found(tmp_path, np.clip(20 * noise(), -1, 1), subtype=subtype).keys() == {"clipping"}


def test_clipping_is_found_in_one_of_two_channels(tmp_path):
    waveform = np.stack([noise(), np.clip(50 * noise(), -1, 1)], axis=1)
    assert found(tmp_path, waveform).keys() == {"clipping"}


def test_clipping_above_full_scale_is_told_with_its_peak(tmp_path):
    waveform = np.linspace(-3, 3, RATE)
    assert found(tmp_path, waveform, subtype="FLOAT")["clipping"].endswith("peak 3")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_counted(tmp_path, value):
    waveform = noise(100_000)
    waveform[[5, 99_999]] = value
    assert found(tmp_path, waveform, subtype="FLOAT") == {"non-finite": "2 of 100000 samples are NaN or infinite"}


def test_huge_finite_samples_are_an_error(tmp_path):
    report = found(tmp_path, np.full(RATE, 3e38) * noise(), subtype="FLOAT")
    assert report == {"non-finite": "samples reach 1.21e+38; expected [-1, 1]"}


def test_same_audio_is_told_with_the_first_line_that_has_it(clean):
    for copy in ("98.wav", "99.wav"):
        shutil.copyfile(clean.parent / "03.wav", clean.parent / copy)
    with clean.open("a") as stream:
        stream.write("98.wav\t8030\n99.wav\t8030\n")
    report = check_manifest(read_manifest(clean))
    assert report.findings == [(20, "same audio", "as on line 5, 03.wav"), (21, "same audio", "as on line 5, 03.wav")]


def test_the_same_samples_at_another_rate_are_other_audio(tmp_path):
    for name, rate in (("a.wav", 8000), ("b.wav", 16000)):
        sf.write(tmp_path / name, noise(), rate)
    (tmp_path / "two.tsv").write_text(f"{tmp_path}\na.wav\t16000\t8000\nb.wav\t16000\n")
    assert findings(tmp_path / "two.tsv") == set()


def test_two_spellings_of_a_path_are_listed_twice(clean):
    with clean.open("a") as stream:
        stream.write(".//03.wav\t8030\n")
    report = check_manifest(read_manifest(clean))
    assert report.findings == [(20, "listed twice", "first on line 5")]


def test_silent_clips_are_not_called_the_same_audio(tmp_path):
    for name in ("a.wav", "b.wav"):
        sf.write(tmp_path / name, np.zeros(RATE), RATE)
    (tmp_path / "two.tsv").write_text(f"{tmp_path}\na.wav\t16000\nb.wav\t16000\n")
    assert findings(tmp_path / "two.tsv") == {(2, "silence"), (3, "silence")}


def test_clips_inside_an_archive_are_compared_as_files_are(tmp_path):
    sf.write(tmp_path / "a.flac", noise(), RATE)
    sf.write(tmp_path / "b.flac", 0 * noise(), RATE)
    packed, silent = pack(tmp_path / "all.zip", tmp_path, ["a.flac", "b.flac"])
    wrong, beyond = packed._replace(offset=packed.offset + 1), silent._replace(length=10**6)
    paths = [member.path_in("all.zip") for member in (packed, silent, wrong, beyond)]
    lines = [f"{path}\t16000" for path in [*paths, packed.path_in("none.zip")]]
    (tmp_path / "train.tsv").write_text("\n".join([str(tmp_path), *lines]))
    assert findings(tmp_path / "train.tsv") == {(3, "silence"), (4, "unreadable"), (5, "unreadable"), (6, "missing")}


# --- fixing


def test_a_fixed_manifest_has_only_warnings(clean):
    warnings = {kind for _, kind in plant(clean) if KINDS[kind].severity == check.WARNING}
    manifest = read_manifest(clean)
    fixed = fix(manifest, check_manifest(manifest))
    write_manifest(clean.with_name("fixed.tsv"), manifest.root, fixed.rows)
    assert {kind for _, kind in findings(clean.with_name("fixed.tsv"))} == warnings
    assert fixed.num_corrected == 2


def test_what_is_left_out_has_every_reason(tmp_path):
    (tmp_path / "two.tsv").write_text(f"{tmp_path}\na.wav\t16000\na.wav\t16000\n")
    manifest = read_manifest(tmp_path / "two.tsv")
    fixed = fix(manifest, check_manifest(manifest))
    missing = "missing: there is no such file"
    assert fixed.left_out == [("a.wav", missing), ("a.wav", f"{missing}; listed twice: first on line 2")]


def test_a_killed_worker_is_an_error_that_says_what_to_do(clean, monkeypatch):
    monkeypatch.setattr(check, "examine", lambda path: os._exit(9))  # which forked workers inherit
    with pytest.raises(AudioError, match=r"was killed.*--workers 1"):
        check_manifest(read_manifest(clean), num_workers=2)
