"""`python -m wfm_ar` is the same as `wfm`."""

import os
import sys

from wfm_ar.cli import main

if __name__ == "__main__":
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Under torchrun gloo's threads may still be giving back the tensors of the last collective; one that needs the interpreter
        # for it while that is taken down aborts the process (pytorch #179291), and a run that had ended well would be started again.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
