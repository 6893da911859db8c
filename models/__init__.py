"""The papers' networks. None has landed yet: `motionspec list` shows which are planned."""

if __name__ != "motionspec.models":
    raise ImportError(f"import motionspec.models, not {__name__}: the folder is a part of the package motionspec")
