"""`python -m moe` is the command `moe`, for launchers that start modules."""

from moe.commands.main import main

if __name__ == "__main__":
    main()
