"""Entry point of `python -m biggan`, which torchrun starts. It is the same program as `biggan`."""

from biggan.cli import main

if __name__ == "__main__":
    main()
