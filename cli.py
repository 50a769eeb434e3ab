"""Entry point for a clone: `python cli.py …` is the same as the installed command `moe …`."""

from moe.commands.main import main

if __name__ == "__main__":
    main()
