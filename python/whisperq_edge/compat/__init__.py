"""Faces of other packages over this one, for programs that switch."""
