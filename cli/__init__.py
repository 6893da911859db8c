"""The `motionspec` command and the judge behind it."""

if __name__ != "motionspec.cli":
    raise ImportError(f"import motionspec.cli, not {__name__}: the folder is a part of the package motionspec")
