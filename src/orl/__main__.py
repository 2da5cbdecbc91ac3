"""`python -m orl`: the command line."""

import sys

from orl.cli import main

if __name__ == "__main__":
    sys.exit(main())
