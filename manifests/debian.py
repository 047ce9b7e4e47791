"""An open corpus from Debian packages: fetched, unpacked (nothing is installed), listed in manifests with labels.

17.6 hours of speech in some 25 languages, music and sounds. Any other package that holds audio can be named. Run again,
it goes on where it stopped. OUT then holds

    train.tsv, valid.tsv         all packages, for pretraining: task.data=OUT
    by_package/NAME/             each package's own
    labels/KIND/                 train and valid with labels where names tell them: speaker, word, language, ...
    packages.json                versions, licences, files and hours of each package
    packages/NAME/               what was unpacked, with its copyright file
"""

import argparse
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from mae_ast_fairseq.corpus.debian import Package, PackageError, fetch, require_tools
from mae_ast_fairseq.corpus.scan import find_audio, scan, write_lines, write_rejected
from mae_ast_fairseq.corpus.script import add_split_arguments, split_side
from mae_ast_fairseq.data.manifest import ManifestRow, write_manifest
from mae_ast_fairseq.errors import AudioError, UserError
from mae_ast_fairseq.files import atomic_write

PACKAGES = (
    *("fillets-ng-data-cs", "fillets-ng-data-nl", "tuxpaint-stamps-default", "ktuberling-data"),  # speech
    *("hedgewars-data", "warzone2100-music", "wesnoth-1.16-music", "singularity-music", "fillets-ng-data"),  # music
    *("colobot-common-sounds", "kanagram", "khangman"),  # sounds
)
FISH = {"m": "small fish", "v": "big fish"}  # malá and velká, who speak in Fish Fillets
SPLITS = ("train", "valid")


def labels_of(path: str) -> dict[str, str]:
    """Return what a file's path, `package/usr/share/...`, tells of it, by kind of label."""
    package, name = path.split("/")[0], PurePosixPath(path).stem
    labels = {"source": package}
    if found := re.fullmatch(r"fillets-ng-data-(\w+)", package):
        labels["language"] = found[1]
        if fish := re.search(r"-([mv])-", name):
            labels["speaker"] = f"{found[1]} {FISH[fish[1]]}"
    elif found := re.search(r"/ktuberling/sounds/(\w+)/", path):
        labels |= {"language": found[1], "word": name}
    elif found := re.search(r"/tuxpaint/stamps/(\w+)/", path):
        labels["kind"] = found[1]
        if described := re.search(r"_desc(?:_(\w+))?$", name):
            labels["language"] = described[1] or "en"
    elif found := re.search(r"/Sounds/voices/(\w+)/", path):
        labels["speaker"] = f"hedgewars {found[1]}"
    return labels


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch, scan, write; 1 where a package could not be had, the others being there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the corpus; made if absent")
    parser.add_argument("packages", nargs="*", help="Debian packages (default: 12 of 17.6 hours)")
    add_split_arguments(parser, valid=0.05)
    args = parser.parse_args(argv)
    try:
        require_tools()
        packages, failed = fetch_all(list(dict.fromkeys(args.packages or PACKAGES)), args.out / "packages")
        if packages:
            rows = write_corpus(args, packages)
            print(tabulate(rows, headers="keys", floatfmt=".2f"))
    except (UserError, OSError) as error:
        print(f"debian.py: {error}", file=sys.stderr)
        return 2
    for reason in failed:
        print(f"debian.py: {reason}", file=sys.stderr)
    return 1 if failed else 0


def fetch_all(names: Sequence[str], folder: Path) -> tuple[list[Package], list[str]]:
    """Return the packages that could be had, and why others could not."""
    packages, failed = [], []
    for name in tqdm(names, desc="fetching", unit=" packages", disable=None):
        try:
            packages.append(fetch(name, folder))
        except PackageError as error:
            failed.append(str(error))
    return packages, failed


def write_corpus(args: argparse.Namespace, packages: Sequence[Package]) -> list[dict[str, Any]]:
    """Write manifests, labels and packages.json; return a row of figures of each package."""
    root = (args.out / "packages").resolve()
    paths = [f"{package.name}/{path}" for package in packages for path in find_audio(root / package.name)]
    accepted, rejected = scan(root, num_workers=args.workers, paths=paths)
    if not accepted:
        raise AudioError(f"{root}: none of {len(paths)} files can be used; expected audio; name other packages")
    splits: dict[str, list[ManifestRow]] = {split: [] for split in SPLITS}
    for row in accepted:
        splits[split_side(row.relative_path, args.valid, args.seed)].append(row)
    write_rejected(args.out / "rejected.tsv", rejected)
    write_folder(args.out, root, splits)
    for folder in ("by_package", "labels"):  # of an earlier choice of packages
        shutil.rmtree(args.out / folder, ignore_errors=True)
    for package in packages:
        write_folder(args.out / "by_package" / package.name, root, rows_of(package, splits))
    for kind in sorted({kind for row in accepted for kind in labels_of(row.relative_path)}):
        write_folder(args.out / "labels" / kind, root, labelled(kind, splits), kind)
    figures = [figures_of(package, splits) for package in packages]
    with atomic_write(args.out / "packages.json") as stream:
        noted = [package._asdict() | figure for package, figure in zip(packages, figures, strict=True)]
        stream.write(json.dumps(noted, indent=2).encode())
    return figures


def labelled(kind: str, splits: dict[str, list[ManifestRow]]) -> dict[str, list[ManifestRow]]:
    """Return the rows that have a label of a kind: words that two languages have, and labels that train has."""
    known = {split: [row for row in rows if kind in labels_of(row.relative_path)] for split, rows in splits.items()}
    if kind == "word":
        labels = [labels_of(row.relative_path) for row in [*known["train"], *known["valid"]]]
        counts = Counter(word for word, _ in {(label["word"], label["language"]) for label in labels})
        for split, rows in known.items():
            known[split] = [row for row in rows if counts[labels_of(row.relative_path)["word"]] > 1]
    learnt = {labels_of(row.relative_path)[kind] for row in known["train"]}
    known["valid"] = [row for row in known["valid"] if labels_of(row.relative_path)[kind] in learnt]
    return known


def rows_of(package: Package, splits: dict[str, list[ManifestRow]]) -> dict[str, list[ManifestRow]]:
    """Return the rows of a package."""
    prefix = f"{package.name}/"
    return {split: [row for row in rows if row.relative_path.startswith(prefix)] for split, rows in splits.items()}


def write_folder(out: Path, root: Path, splits: dict[str, list[ManifestRow]], kind: str | None = None) -> None:
    """Write the manifests of the splits that have files, and the labels of a kind."""
    out.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        if not rows:
            (out / f"{split}.tsv").unlink(missing_ok=True)  # of an earlier choice of packages
            continue
        write_manifest(out / f"{split}.tsv", root, rows)
        if kind is not None:
            write_lines(out / f"{split}.lbl", [labels_of(row.relative_path)[kind] for row in rows])


def figures_of(package: Package, splits: dict[str, list[ManifestRow]]) -> dict[str, Any]:
    """Return a package's name, version, files and hours of each split, and licences."""
    own = rows_of(package, splits)
    hours = sum(row.num_samples / row.sample_rate for rows in own.values() for row in rows) / 3600
    licences = ", ".join(package.licences) or f"see packages/{package.copyright}"
    return {"package": package.name, "version": package.version, "train": len(own["train"]),
            "valid": len(own["valid"]), "hours": hours, "licences": licences}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
