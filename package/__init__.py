"""motionspec: is a motion operator right?

An executable specification (`motionspec.refimpl`), operators that provably compute the same (`motionspec.ops`), and a
judge that holds anybody's callable against an equation (`motionspec.check`, command `motionspec check`).
"""

from importlib.metadata import version

__version__ = version("motionspec")
