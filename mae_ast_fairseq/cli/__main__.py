"""`python -m mae_ast_fairseq.cli` is `mae-ast`."""

import sys

from mae_ast_fairseq.cli import main

if __name__ == "__main__":
    sys.exit(main())
