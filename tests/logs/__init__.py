"""Logs hold events and nothing of a person: word by word, wherever it can break, in real processes."""
