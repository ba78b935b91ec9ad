"""`python -m lmaas` is `lmaas`."""

from lmaas.cli import main

main()
