"""The image pipeline: pixels and presets in, finished pictures out.

Knows nothing of Django, orders or customers; opens no network connection and writes no file.
"""
