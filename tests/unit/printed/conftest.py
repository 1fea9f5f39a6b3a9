"""Pages are compared where they are: not where the package is installed without them."""

from printed.pages import ROOT

collect_ignore_glob = [] if (ROOT / "docs").is_dir() else ["test_*.py"]
