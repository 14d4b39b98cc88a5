"""The rules: plain functions, and the only writers of rows. Each takes `now`; none reads the clock."""
