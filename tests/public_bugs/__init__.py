"""Mistakes that portrait services have made in public, one test for each: none of them is made here.

What is tried here at its simplest is tried at length elsewhere; here a reader finds it by its name.
"""
