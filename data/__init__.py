"""Readers of the data sets that the papers use, and a motion benchmark that needs no download."""

if __name__ != "motionspec.data":
    raise ImportError(f"import motionspec.data, not {__name__}: the folder is a part of the package motionspec")
