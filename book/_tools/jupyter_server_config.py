"""How `make lab` starts JupyterLab."""

import sys
import warnings
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
sys.path.append(str(TOOLS))
import stored  # noqa: E402

c = get_config()  # noqa: F821

# A figure needs no kernel: it moves when a page is opened, and after it was saved.
stored.trust(TOOLS.parent)
c.FileContentsManager.pre_save_hook = stored.before_save
# Jupyter applies its settings twice, and says that the second hook replaces the first.
warnings.filterwarnings("ignore", "Overriding existing pre_save_hook")

# A kernel holds up to 1.7 GB and outlives its tab. Idle, with no tab, it ends after
# five minutes: until then a tab that was closed by mistake finds it again.
c.MappingKernelManager.cull_idle_timeout = 300
c.MappingKernelManager.cull_interval = 60
