"""`python -m xtts_gatekeeper`."""

from xtts_gatekeeper.cli import main

if __name__ == "__main__":
    main()
