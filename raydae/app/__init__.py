"""App: the commands, their command lines, and what they print.

Imports every other room; only the scripts in `jobs/` import it.
"""
