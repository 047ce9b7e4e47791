"""`mae-ast check` from manifest to findings, clean manifest and picture, and its errors."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import soundfile as sf

from mae_ast_fairseq import extras
from mae_ast_fairseq.cli import check as command
from mae_ast_fairseq.cli import main
from mae_ast_fairseq.corpus.check import ERROR, KINDS
from mae_ast_fairseq.data.manifest import read_manifest
from tests.corpus.test_check import noise, plant, write_clean


@pytest.fixture
def clean(tmp_path):
    return write_clean(tmp_path / "corpus")


@pytest.fixture
def faulty(clean):
    plant(clean)
    return clean


def _run(capsys, *argv):
    code = main(["check", *map(str, argv)])
    return code, capsys.readouterr().out


def test_a_clean_manifest_is_code_0(clean, capsys):
    code, out = _run(capsys, clean)
    assert code == 0
    assert out.splitlines()[-1] == "nothing is wrong"


def test_every_finding_has_a_line_with_where_path_kind_and_what(faulty, capsys):
    code, out = _run(capsys, faulty)
    assert code == 1
    lines = [line.split("\t") for line in out.partition("\n\n")[0].splitlines()]
    assert lines[0] == [f"{faulty}:2", f"{faulty.parent}/00.wav", "missing", "there is no such file"]
    assert [line[2] for line in lines].count("other length") == 1
    assert len(lines) == len(KINDS)


@pytest.mark.parametrize(("options", "expected"), [((), 0), (("--strict",), 1), (("--strict", "--json"), 1)])
def test_a_warning_alone_is_code_1_if_strict(clean, capsys, options, expected):
    sf.write(clean.parent / "00.wav", 0 * noise(8000), 16000)
    assert _run(capsys, clean, *options)[0] == expected


def test_the_first_warnings_of_a_kind_are_shown_and_all_counted(clean, capsys):
    for number in range(5):
        sf.write(clean.parent / f"{number:02}.wav", (number + 1) * 1e-6 * noise(8000), 16000, subtype="FLOAT")
    _, out = _run(capsys, clean)
    assert out.count("\tsilence\t") == command.NUM_SHOWN_WARNINGS
    assert out.splitlines()[-1].split()[:2] == ["silence", "5"]
    summary = json.loads(_run(capsys, clean, "--json")[1])
    assert [finding["kind"] for finding in summary["findings"]].count("silence") == 5


def test_a_warning_is_a_row_of_the_table(clean, capsys):
    sf.write(clean.parent / "00.wav", 0 * noise(8000), 16000)
    out = _run(capsys, clean)[1]
    assert out.splitlines()[-1].split()[:3] == ["silence", "1", "warning,"]


def test_the_table_counts_rows_hours_and_kinds(faulty, capsys):
    _, out = _run(capsys, faulty)
    lines = [" ".join(line.split()) for line in out.partition("\n\n")[2].splitlines()]
    assert lines[:3] == [
        "rows 22 15 of them with findings",
        "readable 17 17 at 16000 Hz",
        "hours 0.00 lengths 0.006 to 0.512 s, median 0.506 s",
    ]
    assert lines[3:] == [f"{kind} 1 {command.REMEDIES[KINDS[kind].severity]}" for kind in KINDS]


def test_json_says_the_same(faulty, capsys):
    code, out = _run(capsys, faulty, "--json")
    summary = json.loads(out)
    assert code == 1
    assert summary["kinds"] == dict.fromkeys(KINDS, 1)
    assert summary["sample_rates"] == {"16000": 17}
    assert summary["findings"][0] == {
        "where": f"{faulty}:2",
        "path": f"{faulty.parent}/00.wav",
        "kind": "missing",
        "severity": "error",
        "found": "there is no such file",
    }


def test_hours_and_lengths_are_those_of_the_files(tmp_path, capsys):
    for name, num_samples, rate in (("a.wav", 16000, 16000), ("b.wav", 16000, 8000), ("c.wav", 9 * 16000, 16000)):
        sf.write(tmp_path / name, noise(num_samples), rate)
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t16000\nb.wav\t16000\nc.wav\t16000\n")
    summary = json.loads(_run(capsys, tmp_path / "train.tsv", "--json")[1])
    assert summary["hours"] == round(12 / 3600, 4)
    assert summary["seconds"] == {"min": 1.0, "median": 2.0, "max": 9.0}


# --- --fix


def test_a_fixed_manifest_has_no_errors(faulty, tmp_path, capsys):
    _run(capsys, faulty, "--fix", tmp_path / "fixed.tsv")
    kinds = json.loads(_run(capsys, tmp_path / "fixed.tsv", "--json")[1])["kinds"]
    assert kinds == {"same audio": 1, "cancelling": 1, "silence": 1, "clipping": 1}


def test_a_fixed_manifest_without_warnings_passes(clean, tmp_path, capsys):
    (clean.parent / "03.wav").unlink()
    assert _run(capsys, clean, "--fix", tmp_path / "fixed.tsv")[0] == 1
    assert _run(capsys, tmp_path / "fixed.tsv")[0] == 0


def test_other_lengths_and_rates_are_corrected(clean, tmp_path, capsys):
    clean.write_text(clean.read_text().replace("03.wav\t8030", "03.wav\t1\t8000"))
    _run(capsys, clean, "--fix", tmp_path / "fixed.tsv")
    assert (tmp_path / "fixed.tsv").read_text().splitlines()[4] == "03.wav\t8030"
    assert (tmp_path / "fixed.left_out.tsv").read_bytes() == b""


def test_what_is_left_out_is_listed_with_its_reason(faulty, tmp_path, capsys):
    _, out = _run(capsys, faulty, "--fix", tmp_path / "fixed.tsv")
    lines = (tmp_path / "fixed.left_out.tsv").read_text().splitlines()
    assert lines[:2] == [
        "00.wav\tmissing: there is no such file",
        "01.wav\tunreadable: cannot be decoded (Format not recognised)",
    ]
    kinds = [line.split("\t")[1].split(":")[0] for line in lines]
    assert sorted(kinds) == sorted(kind for kind in KINDS if KINDS[kind].severity == ERROR)
    assert "13 rows, 2 of them corrected; left out 9" in out


def test_labels_stay_with_their_rows(faulty, tmp_path, capsys):
    manifest = read_manifest(faulty)
    names = [manifest.relative_path(row) for row in range(len(manifest))]
    faulty.with_suffix(".lbl").write_text("".join(f"{name}\n" for name in names))
    _run(capsys, faulty, "--fix", tmp_path / "fixed.tsv")
    fixed = read_manifest(tmp_path / "fixed.tsv")
    labels = (tmp_path / "fixed.lbl").read_text().splitlines()
    assert labels == [fixed.relative_path(row) for row in range(len(fixed))]
    assert len(labels) == 13


def test_labels_of_another_number_are_refused(clean, tmp_path, refusal):
    clean.with_suffix(".lbl").write_text("a\n" * 19)
    message = refusal("check", clean, "--fix", tmp_path / "fixed.tsv")
    assert f"{clean.with_suffix('.lbl')}: 19 lines; expected 20" in message


def test_nothing_to_keep_is_an_error_that_tells_where_to_look(tmp_path, capsys):
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t16000\n")
    assert main(["check", str(tmp_path / "train.tsv"), "--fix", str(tmp_path / "fixed.tsv")]) == 2
    assert "none of 1 rows can be kept" in capsys.readouterr().err
    assert (tmp_path / "fixed.left_out.tsv").read_text() == "a.wav\tmissing: there is no such file\n"
    assert not (tmp_path / "fixed.tsv").exists()


def test_the_manifest_itself_is_not_overwritten(clean, refusal):
    before = clean.read_bytes()
    assert "that is the manifest itself" in refusal("check", clean, "--fix", clean)
    assert clean.read_bytes() == before


# --- --plot


def _size(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def test_the_picture_is_a_png(faulty, tmp_path, capsys):
    _run(capsys, faulty, "--plot", tmp_path / "plot.png")
    assert _size(tmp_path / "plot.png") == (1210, 495)


def test_files_of_one_length_and_a_name_like_a_formula_are_drawn(tmp_path, capsys):
    sf.write(tmp_path / "a.wav", noise(), 16000)
    (tmp_path / r"$\oops$.tsv").write_text(f"{tmp_path}\na.wav\t16000\n")
    assert _run(capsys, tmp_path / r"$\oops$.tsv", "--plot", tmp_path / "plot.png")[0] == 0
    assert _size(tmp_path / "plot.png") == (1210, 495)


def test_nothing_to_draw_is_an_empty_picture(tmp_path, capsys):
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t16000\n")
    assert _run(capsys, tmp_path / "train.tsv", "--plot", tmp_path / "plot.png")[0] == 1
    assert _size(tmp_path / "plot.png") == (1210, 495)


def test_without_matplotlib_it_says_how_to_get_it(clean, tmp_path, refusal, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    message = refusal("check", clean, "--plot", tmp_path / "plot.png")
    assert "pip install 'mae_ast_fairseq[plot]'" in message


# --- errors


def test_a_missing_manifest_is_named(tmp_path, refusal):
    assert f"{tmp_path / 'none.tsv'}: there is no such file" in refusal("check", tmp_path / "none.tsv")


@pytest.mark.parametrize(("option", "name"), [("--fix", "fixed.txt"), ("--plot", "plot.jpg"), ("--fix", "none/a.tsv")])
def test_an_output_that_cannot_be_written_is_refused_before_the_check(clean, tmp_path, refusal, option, name):
    assert f"{option} {tmp_path / name}: " in refusal("check", clean, option, tmp_path / name)


def test_no_workers_are_refused(clean, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["check", str(clean), "--workers", "0"])
    assert "--workers: 0 was given; expected 1 to 1,000 processes" in capsys.readouterr().err


def test_help_tells_what_fix_does_with_each_kind(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["check", "--help"])
    parts = re.split("^(?=error|warning)", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    sections = dict(part.split(":\n", 1) for part in parts)
    for kind, (severity, meaning) in KINDS.items():
        assert f"  {kind:13} {meaning}" in sections[command.REMEDIES[severity]]


# A worker that says that it has begun, and then waits for a disk that does not answer.
STALLED = """
import signal, sys, time
from mae_ast_fairseq.cli import main
from mae_ast_fairseq.corpus import check

def stall(row):
    open(row.relative_path + ".begun", "w").close()
    time.sleep(60)

check._examine = stall
# As a terminal starts it: who starts the tests in a shell's background leaves SIGINT ignored, also by the command.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv[0] = "mae-ast"
sys.exit(main())
"""


def test_an_interrupt_ends_it_and_its_workers(tmp_path):
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t16000\n")
    command = subprocess.Popen(
        [sys.executable, "-c", STALLED, "check", str(tmp_path / "train.tsv"), "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not (tmp_path / "a.wav.begun").exists():
            assert command.poll() is None
            time.sleep(0.01)
        os.killpg(command.pid, signal.SIGINT)
        _, err = command.communicate(timeout=60)  # ends only when every worker has closed its stderr
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
    assert (command.returncode, err) == (130, "mae-ast check: interrupted\n")
