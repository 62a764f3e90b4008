"""``python -m ecopipe``."""

from ecopipe.cli.main import main

main()
