"""Hooks: commands of the site that see each sealed envelope before it is sent.

verdict.py  the end of a command → pass, veto or failure. Pure
command.py  runs a command, with limits of time, memory and output

A command never gets a shell, our environment, our descriptors, or a secret.
"""
