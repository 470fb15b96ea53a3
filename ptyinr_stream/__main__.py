"""`python -m ptyinr_stream` is `ptyinr-stream`."""

from ptyinr_stream.cli import main

if __name__ == "__main__":
    main()
