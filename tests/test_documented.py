"""Commands, Python and files are found in pages of Markdown."""

from tests import documented
from tests.documented import commands_of, files_of, python_of

PAGE = """
A sentence names `mae-ast probe`, `srun`, `model.pretrained` and `mae-ast export FILE --to released | s3prl
--out FILE`.

    # my/own.yaml
    defaults: [mae_ast_tiny, _self_]

    A=1 mae-ast train my/own.yaml \\
        task.data=data 'task.name=a b'     # it's as `mae-ast train` does
    for N in 1 2; do python a.py $(mae-ast path) > $N.txt; done && (cd a | b -c)

```
make demo
```

    import mae_ast_fairseq

    mae_ast_fairseq.load_pretrained("tiny")
"""


def test_commands_python_and_files_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(documented, "ROOT", tmp_path)
    page = tmp_path / "a.md"
    page.write_text(PAGE)
    assert [(command.words, command.in_prose) for command in commands_of(page)] == [
        (("mae-ast", "probe"), True),
        (("mae-ast", "export", "FILE", "--to", "released", "--out", "FILE"), True),
        (("mae-ast", "export", "FILE", "--to", "s3prl", "--out", "FILE"), True),
        (("mae-ast", "train", "my/own.yaml", "task.data=data", "task.name=a b"), False),
        (("mae-ast", "path"), False),
        (("python", "a.py", "${mae-ast\0path}"), False),
        (("cd", "a"), False),
        (("b", "-c"), False),
        (("make", "demo"), False),
    ]
    assert [block.lines[0] for block in python_of(page)] == ["import mae_ast_fairseq"]
    assert files_of(page) == {"my/own.yaml": "# my/own.yaml\ndefaults: [mae_ast_tiny, _self_]\n"}
