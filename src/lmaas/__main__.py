"""`python -m lmaas` is `lmaas`."""

from lmaas.cli import main

if __name__ == "__main__":
    main()
