"""`python -m wfm_ar` is the same as `wfm`."""

from wfm_ar.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
