"""`python -m fastjmix` is `fastjmix`."""

from fastjmix.cli import main

main()
