"""A rank of `textenv launch`: runs a command of textenv."""

import sys

from textenv.algos.cli import main

sys.exit(main())
