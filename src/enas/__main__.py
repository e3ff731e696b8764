"""`python -m enas`, the same as `enas`."""

import sys

from enas.cli import main

if __name__ == "__main__":
    sys.exit(main())
