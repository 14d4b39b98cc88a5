"""Content credentials: what is signed into each picture, by whom, and how it is read."""
