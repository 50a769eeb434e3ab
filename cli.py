"""The command line from a clone: `python cli.py …` does what the installed `moe …` does."""

from moe.commands.main import main

if __name__ == "__main__":
    main()
