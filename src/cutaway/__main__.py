"""`python -m cutaway` and `cutaway`: the command line, whose modules are imported where Ctrl-C does no harm."""

from cutaway.stopping import leave_at_once


def main() -> None:
    """Run the command line."""
    leave_at_once()
    from cutaway.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
