"""`python -m pipeline` is the `pipeline` command, for an environment without its script."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
