"""Figures that pages print, and what they are compared with."""
