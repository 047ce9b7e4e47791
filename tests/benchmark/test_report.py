from mae_ast_fairseq.benchmark.report import table


def test_columns_are_aligned_and_a_remark_takes_the_rest_of_its_line() -> None:
    text = table(
        "what", ("name", "kind", "n", "ms"), [["a", "float32", "1", "10.0"], ["longer", "x", "not enough memory"]]
    )
    assert text.splitlines() == [
        "what",
        "  name    kind     n    ms",
        "  a       float32  1  10.0",
        "  longer  x        not enough memory",
    ]
