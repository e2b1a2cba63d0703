"""The short forms of the campaigns in tools/campaigns: their modules are imported from there."""

import sys
from pathlib import Path

CAMPAIGNS = Path(__file__).parents[2] / "tools" / "campaigns"
if str(CAMPAIGNS) not in sys.path:
    sys.path.append(str(CAMPAIGNS))
