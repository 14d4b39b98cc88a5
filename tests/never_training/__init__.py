"""“Never for training”, read off the code itself: nothing here learns, keeps or carries away.

The bans are read from the syntax tree of every file of `headshots` and `pipelines`, so a docstring may speak
of them. Each ban has planted lines that it must find, or it would hold nothing.
"""
