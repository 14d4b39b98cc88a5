"""Redo: one picture made again, the old one kept until the new one is chosen, nothing else changed."""
