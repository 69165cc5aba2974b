"""`python -m slimp` is the command `slimp`."""

from slimp.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
