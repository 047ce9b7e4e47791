"""The probe sets: labelled clips in groups (speakers, voices, sound fonts, kits), none of them in the open corpus.

Each is written once as WAV files at 16 kHz and read again from its manifest; the file's name says `label~group~number`.
"""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf

from mae_ast_fairseq.corpus.debian import fetch
from mae_ast_fairseq.corpus.scan import find_audio
from mae_ast_fairseq.data.audio import SAMPLE_RATE, load_audio
from mae_ast_fairseq.data.manifest import Manifest, read_manifest, write_manifest
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.evaluation import splits

MIN_SECONDS = 0.2  # shorter clips get silence at their end: a patch is 0.175 s long
MAX_SECONDS = 5.0
TAKES = 20  # of FSDD's 50
DRUMS = {  # a sample's class by its file's name, tried in this order
    "hi-hat": r"hat|hh",
    "cymbal": r"crash|ride|splash|cymb|china",
    "snare": r"snare|^sd|sn_|rimshot|stick",
    "tom": r"tom|^t[123]_|^ft_",
    "kick": r"kick|bd|bass ?drum",
}
FONTS = (
    *("timgm6mb-soundfont", "fluid-soundfont-gm", "opl3-soundfont"),
    *("csound-soundfont", "musescore-general-soundfont-small"),
)
INSTRUMENTS = {  # General MIDI programs
    **{"piano": 0, "vibraphone": 11, "organ": 19, "accordion": 21, "guitar": 24, "bass": 32, "violin": 40},
    **{"harp": 46, "strings": 48, "choir": 52, "trumpet": 56, "horn": 60, "saxophone": 65, "oboe": 68},
    **{"clarinet": 71, "flute": 73},
}
NOTES = (48, 53, 57, 60, 64, 69)
WORDS = (  # many differ in one sound
    *("pat", "bat", "cat", "mat", "sat", "hat", "pet", "bet", "met", "set", "let", "wet", "pit", "bit", "kit", "sit"),
    *("pot", "dot", "hot", "lot", "not", "got", "put", "foot", "soot", "boot", "root", "shoot", "gate", "late", "wait"),
    *("date", "light", "night", "right", "white", "boat", "coat", "note", "wrote", "pin", "bin", "thin", "win", "pan"),
    *(
        "ban",
        "man",
        "fan",
        "pen",
        "ten",
        "men",
        "when",
        "seal",
        "meal",
        "deal",
        "wheel",
        "ball",
        "call",
        "fall",
        "tall",
    ),
)
VOICES = ("m1", "m3", "m5", "f1", "f2", "f4", "klatt", "whisper", "anika", "boris", "grandma", "linda")

Clip = tuple[str, str, np.ndarray]
"""label, group, waveform at 16 kHz"""


class ProbeSet(NamedTuple):
    """Clips, and what is to be predicted of them."""

    manifest: Manifest
    data: splits.ProbeData


def read_set(folder: Path, make: Callable[[], Iterator[Clip]]) -> ProbeSet:
    """Return a set, which is made where it is not there yet."""
    if not (folder / "all.tsv").is_file():
        rows = []
        (folder / "audio").mkdir(parents=True, exist_ok=True)
        for number, (label, group, waveform) in enumerate(make()):
            waveform = waveform[: int(MAX_SECONDS * SAMPLE_RATE)]
            waveform = np.pad(waveform, (0, max(0, int(MIN_SECONDS * SAMPLE_RATE) - len(waveform))))
            name = f"{label}~{group}~{number}.wav"
            sf.write(folder / "audio" / name, waveform, SAMPLE_RATE, subtype="PCM_16")
            rows.append((name, len(waveform), SAMPLE_RATE))
        write_manifest(folder / "all.tsv", (folder / "audio").resolve(), rows)
    manifest = read_manifest(folder / "all.tsv")
    parts = [Path(manifest.path(row)).name.split("~") for row in range(len(manifest))]
    names = sorted({label for label, _, _ in parts})
    targets = np.array([names.index(label) for label, _, _ in parts])
    return ProbeSet(manifest, splits.ProbeData(targets, names, np.array([group for _, group, _ in parts])))


def digits(fsdd: Path, takes: range) -> Iterator[Clip]:
    """Spoken digits across speakers: FSDD's `{digit}_{speaker}_{take}.wav`."""
    for name in find_audio(fsdd):
        found = re.fullmatch(r"(\d)_(\w+)_(\d+)", Path(name).stem)
        if found is None:
            raise ConfigError(f"--fsdd {fsdd}: {name} was found; expected recordings of FSDD, as 7_jackson_32.wav")
        digit, speaker, take = found.groups()
        if int(take) in takes:
            yield digit, speaker, load_audio(fsdd / name, expect_rate=None)


def families(samples: Path) -> Iterator[Clip]:
    """Kinds of samples, the part of a name before the first `_`, of those that have ten; groups are fifths."""
    paths = find_audio(samples)
    kinds = [Path(path).stem.split("_")[0] for path in paths]
    for number, (path, kind) in enumerate(zip(paths, kinds, strict=True)):
        if kinds.count(kind) >= 10:
            yield kind, f"fifth {number % 5}", load_audio(samples / path, expect_rate=None)


def drums(packages: Path) -> Iterator[Clip]:
    """Drums across kits: the samples of hydrogen-drumkits whose names say what they are."""
    root = packages / fetch("hydrogen-drumkits", packages).name
    for name in find_audio(root):
        path = Path(name)
        label = next((drum for drum, rule in DRUMS.items() if re.search(rule, path.stem, re.IGNORECASE)), None)
        if label is None:
            continue
        try:
            yield label, path.parent.name, load_audio(root / path, expect_rate=None)
        except AudioError:
            continue  # a few are longer in their header than in truth


def instruments(packages: Path) -> Iterator[Clip]:
    """Instruments across sound fonts: notes of 1.2 s that tinysoundfont renders."""
    import tinysoundfont

    for font in FONTS:
        (path,) = (packages / fetch(font, packages).name / "usr/share/sounds").rglob("*.sf[23]")
        synth = tinysoundfont.Synth(samplerate=SAMPLE_RATE, gain=-6)
        number = synth.sfload(str(path))
        for label, program in INSTRUMENTS.items():
            synth.program_select(0, number, 0, program)
            for note in NOTES:
                synth.noteon(0, note, 100)
                held = np.frombuffer(bytes(synth.generate(SAMPLE_RATE)), np.float32)
                synth.noteoff(0, note)
                faded = np.frombuffer(bytes(synth.generate(SAMPLE_RATE // 5)), np.float32)
                yield label, font, np.concatenate([held, faded]).reshape(-1, 2).mean(axis=1)
                synth.sounds_off(0)
                synth.generate(SAMPLE_RATE)


def words(packages: Path) -> Iterator[Clip]:
    """Words across synthetic voices: espeak-ng's English by twelve voices, two of them a group."""
    import espeakng_loader

    program = packages / fetch("espeak-ng", packages).name / "usr/bin/espeak-ng"
    folder = Path(espeakng_loader.get_library_path()).parent  # Debian's own library wants a sound server
    for number, voice in enumerate(VOICES):
        for word in WORDS:
            path = packages / "spoken.wav"
            command = [str(program), f"--path={folder}", "-v", f"en+{voice}", "-w", str(path), word]
            subprocess.run(command, check=True, capture_output=True, env={"LD_LIBRARY_PATH": str(folder)})
            yield word, f"voices {number % 6}", load_audio(path, expect_rate=None)


def names(fsdd: object, samples: object) -> dict[str, bool]:
    """Return the names of all sets, and whether there is what they are made of."""
    always = ("words across voices", "instruments across sound fonts", "drums across kits")
    return {
        **dict.fromkeys(always, True),
        "digits across speakers": bool(fsdd),
        "families of samples": bool(samples),
    }


def probe_sets(out: Path, fsdd: Path | None, samples: Path | None) -> dict[str, ProbeSet]:
    """Return all sets, those of recordings where their folders are given; each is made once."""
    packages = out / "packages"
    makers: dict[str, Callable[[], Iterator[Clip]]] = {
        "words across voices": lambda: words(packages),
        "instruments across sound fonts": lambda: instruments(packages),
        "drums across kits": lambda: drums(packages),
        "digits across speakers": lambda: digits(fsdd or Path(), range(TAKES)),
        "families of samples": lambda: families(samples or Path()),
    }
    wanted = [name for name, is_there in names(fsdd, samples).items() if is_there]
    return {name: read_set(out / "sets" / name.replace(" ", "_"), makers[name]) for name in wanted}
