"""`python -m modelsurgery` is `surgery`."""

from modelsurgery.cli import main

if __name__ == "__main__":
    main()
