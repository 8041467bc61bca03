"""Start the command line, for `cutaway` and `python -m cutaway`.

Its modules are imported inside main(), after Ctrl-C was made to end the program in one word.
"""

from cutaway.stopping import leave_at_once


def main() -> None:
    """Run the command line."""
    leave_at_once()
    from cutaway.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
