"""The commands, Python and files that README, docs, recipes and --help show, found in their texts."""

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import yaml

from mae_ast_fairseq.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "manifests/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "mae_ast_fairseq").rglob("*.md")),
]
PROGRAMS = (
    *("mae-ast", "fairseq-hydra-train", "python", "make", "pip", "torchrun", "srun"),
    *("eval", "hf", "sox", "tensorboard", "twine"),
)
"""What a line begins with that is a command, where prose or fields may stand beside commands."""
NO_COMMANDS = ("/data", "train.tsv ")
"""How the blocks begin that show manifests and labels; formulas have an equals sign between spaces."""

_SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
_SEPARATORS = {";", "&&", "||", "|", "(", ")"}


class Command(NamedTuple):
    """One program with its arguments, as a shell would start it."""

    place: str
    """the file and its line"""
    words: tuple[str, ...]
    """a `$(command with arguments)` in them is one `${command\\0with\\0arguments}`"""
    in_prose: bool
    """between backticks, where it may be a part of a command"""


class Text(NamedTuple):
    """Lines of a file that belong together."""

    place: str
    lines: list[str]


def commands() -> list[Command]:
    """Return all commands that are documented, in the order in which pages show them."""
    found = [command for page in PAGES for command in commands_of(page)]
    for recipe in sorted((ROOT / "examples" / "recipes").glob("*.yaml")):
        lines = recipe.read_text(encoding="utf-8").splitlines()
        found += _that_begin_with_a_program(recipe, [line.removeprefix("#") for line in lines if line[:1] == "#"])
    for name in COMMANDS:
        module = import_module(f"mae_ast_fairseq.cli.{name}")
        found += _that_begin_with_a_program(Path(str(module.__file__)), module.EXAMPLE.splitlines())
    return found


def commands_of(page: Path) -> list[Command]:
    """Return the commands of a page of Markdown: of its blocks of code and of its sentences, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    found = [
        command
        for block in _blocks(page, text)
        if not _is_python(block)
        for part in _parts(block)
        if not (_is_yaml(part) or part.lines[0].startswith(NO_COMMANDS) or " = " in part.lines[0])
        for command in _of_shell(part)
    ]
    return sorted([*found, *_of_prose(page, text)], key=lambda command: int(command.place.rpartition(":")[2]))


def python_of(page: Path) -> list[Text]:
    """Return the blocks of Python of a page."""
    return [block for block in _blocks(page, page.read_text(encoding="utf-8")) if _is_python(block)]


def files_of(page: Path) -> dict[str, str]:
    """Return the texts of the files, by name, that a page shows, under comments of which one is the name."""
    blocks = _blocks(page, page.read_text(encoding="utf-8"))
    files = {}
    for part in (part for block in blocks for part in ([block] if _is_python(block) else _parts(block))):
        name = re.match(r"(?:# @.*\n)?# ([\w/]+\.(?:yaml|py))\n", "\n".join(part.lines))
        if name and (_is_python(part) or _is_yaml(part)):
            files[name[1]] = "\n".join([*part.lines, ""])
    return files


def _blocks(page: Path, text: str) -> Iterator[Text]:
    """Yield the blocks of code of a page, which are indented by four spaces or stand between fences."""
    lines: list[str] = []
    start, fenced, before = 0, False, ""
    for number, line in enumerate([*text.splitlines(), "."], start=1):
        is_fence = line.startswith("```")
        is_code = fenced or (line.startswith("    ") and (lines or not before.strip())) or (lines and not line.strip())
        if is_code and not is_fence:
            start = start if lines else number
            lines.append(line if fenced else line[4:])
        elif lines:
            last = max(place for place, line in enumerate(lines) if line.strip())
            yield Text(f"{page.relative_to(ROOT)}:{start}", lines[: last + 1])
            lines = []
        fenced ^= is_fence
        before = line


def _parts(block: Text) -> Iterator[Text]:
    """Yield what blank lines separate in a block."""
    page, _, start = block.place.rpartition(":")
    part: list[str] = []
    for number, line in enumerate([*block.lines, ""], start=int(start)):
        if line.strip():
            part.append(line)
        elif part:
            yield Text(f"{page}:{number - len(part)}", part)
            part = []


def _is_python(text: Text) -> bool:
    try:
        tree = ast.parse("\n".join(text.lines))
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Import | ast.ImportFrom | ast.Call) for node in ast.walk(tree))


def _is_yaml(text: Text) -> bool:
    try:
        return isinstance(yaml.safe_load("\n".join(text.lines)), dict)
    except yaml.YAMLError:
        return False


def _of_shell(text: Text) -> Iterator[Command]:
    """Yield the commands of lines of shell, of which a backslash continues one in the next."""
    page, _, start = text.place.rpartition(":")
    line = ""
    for number, part in enumerate(text.lines, start=int(start)):
        if part.rstrip().endswith("\\"):
            line += part.rstrip()[:-1]
            continue
        for words in _simple_commands(line + part):
            yield Command(f"{page}:{number}", words, in_prose=False)
        line = ""
    assert not line, f"{text.place}: a backslash ends the last line"


def _simple_commands(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command of a line, without comments, assignments, redirections and the words of loops."""
    for inner in _SUBSTITUTION.findall(line):
        yield tuple(shlex.split(inner))
    line = _SUBSTITUTION.sub(lambda found: "${" + found[1].replace(" ", "\0") + "}", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in _SEPARATORS:
            words.append(word)
            continue
        if ">" in words:
            words = words[: words.index(">")]
        while words and (words[0] == "do" or re.match(r"\w+=", words[0])):
            del words[0]
        if words and words[0] not in ("for", "done"):
            yield tuple(words)
        words = []


def _of_prose(page: Path, text: str) -> Iterator[Command]:
    """Yield the commands between backticks: a program and something behind it."""
    lines = text.splitlines()
    for block in _blocks(page, text):
        start = int(block.place.rpartition(":")[2]) - 1
        lines[start : start + len(block.lines)] = [""] * len(block.lines)
    prose = "\n".join(lines)
    for found in re.finditer(r"`((?:[^`\n]|\n(?!\n))+)`", prose):
        code = found[1].replace("\n", " ").rstrip(" …")
        if code.split(" ")[0] in PROGRAMS and " " in code:
            number = prose.count("\n", 0, found.start()) + 1
            for words in (words for each in _alternatives(code) for words in _simple_commands(each)):
                yield Command(f"{page.relative_to(ROOT)}:{number}", words, in_prose=True)


def _alternatives(code: str) -> list[str]:
    """Return a command with each of the words between which prose leaves the choice: `--to released | s3prl`."""
    found = re.search(r"\S+(?: \| \S+)+", code)
    return [code.replace(found[0], each) for each in found[0].split(" | ")] if found else [code]


def _that_begin_with_a_program(path: Path, lines: list[str]) -> Iterator[Command]:
    """Yield the commands among lines of other things."""
    lines = [line.strip() for line in lines]
    continued = [number > 0 and lines[number - 1].endswith("\\") for number in range(len(lines))]
    kept = [
        line if goes_on or line.startswith(("for ", *(f"{program} " for program in PROGRAMS))) else ""
        for line, goes_on in zip(lines, continued, strict=True)
    ]
    yield from _of_shell(Text(f"{path.relative_to(ROOT)}:1", kept))
