"""`make chaos`: runs are killed, signalled, starved of disk and files, and must end as if nothing had happened.

`python -m tests.chaos` prints a table of cases, survived and lost; exit code 1 where one was lost. See `rows.py`.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: runs are compared to the bit
