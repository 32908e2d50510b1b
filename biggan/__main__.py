"""`python -m biggan` is `biggan`: what torchrun starts."""

from biggan.cli import main

if __name__ == "__main__":
    main()
