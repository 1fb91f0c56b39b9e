"""`python -m convdsl` is `convdsl`."""

from convdsl.cli import main

if __name__ == "__main__":
    main()
